package datasets

import (
	"anynetx/anynetx"
	"anynetx/random"
)

// Subset asks for a part of a set. Zero values mean: all.
type Subset struct {
	Classes     int   `yaml:"classes,omitempty" json:"classes,omitempty"`            // that many, chosen at random
	ClassList   []int `yaml:"class_list,omitempty,flow" json:"class_list,omitempty"` // these, by their number in the set, in this order
	TrainImages int   `yaml:"train_images,omitempty" json:"train_images,omitempty"`  // spread evenly over the classes
	TestImages  int   `yaml:"test_images,omitempty" json:"test_images,omitempty"`    // spread evenly over the classes
	Balance     bool  `yaml:"balance,omitempty" json:"balance,omitempty"`            // cut the most common class to the size of the second, in each split (the paper's 6.1.6)
}

// Subset cuts a part out of a set; labels are numbered anew, Mean and Std are those of the part.
//
// Parts are nested, given the same stream: the classes of a smaller number of classes are the first of those of a larger one, with the
// same numbers; and the images of a class are taken in one random order, so that fewer images are the first of more. A class's order does
// not depend on which other classes are chosen.
func (s *Set) Subset(want Subset, stream random.Stream) (*Set, error) {
	if want.Classes == 0 && len(want.ClassList) == 0 && want.TrainImages == 0 && want.TestImages == 0 && !want.Balance {
		whole := *s
		return &whole, nil
	}
	classes, err := s.chooseClasses(want, stream)
	if err != nil {
		return nil, err
	}
	part := &Set{Name: s.Name, H: s.H, W: s.W, C: s.C}
	for _, c := range classes {
		part.Classes = append(part.Classes, s.Classes[c])
	}
	if part.Train, err = s.part("training", s.Train, classes, want.TrainImages, want.Balance, stream); err != nil {
		return nil, err
	}
	if part.Test, err = s.part("test", s.Test, classes, want.TestImages, want.Balance, stream); err != nil {
		return nil, err
	}
	return part, part.finish("subset of " + s.Name)
}

func (s *Set) chooseClasses(want Subset, stream random.Stream) ([]int, error) {
	total := len(s.Classes)
	if list := want.ClassList; len(list) > 0 {
		if want.Classes != 0 && want.Classes != len(list) {
			return nil, anynetx.Inputf("subset of %s: classes is %d and class_list has %d numbers; give one of them", s.Name, want.Classes, len(list))
		}
		seen := map[int]bool{}
		for i, c := range list {
			if c < 0 || c >= total {
				return nil, anynetx.Inputf("subset of %s: number %d of class_list is %d, the classes are 0 to %d", s.Name, i, c, total-1)
			}
			if seen[c] {
				return nil, anynetx.Inputf("subset of %s: class_list names class %d twice", s.Name, c)
			}
			seen[c] = true
		}
		if len(list) < 2 {
			return nil, anynetx.Inputf("subset of %s: class_list has one class, at least 2 are needed", s.Name)
		}
		return list, nil
	}
	if want.Classes == 0 {
		all := make([]int, total)
		for i := range all {
			all[i] = i
		}
		return all, nil
	}
	if want.Classes < 2 || want.Classes > total {
		return nil, anynetx.Inputf("subset of %s: %d classes are asked for, it has %d, and at least 2 are needed", s.Name, want.Classes, total)
	}
	var chosen []int
	for _, c := range random.New(stream.Uint64(0), "classes").Permutation(total)[:want.Classes] {
		chosen = append(chosen, int(c))
	}
	return chosen, nil
}

// part takes the images of one split: the first of every class, then the second of every class, and so on. Hence any number of images is
// spread evenly, and is the beginning of any larger number.
func (s *Set) part(name string, from Split, classes []int, count int, balance bool, stream random.Stream) (Split, error) {
	byClass := make([][]int32, len(s.Classes))
	for i, l := range from.Labels {
		byClass[l] = append(byClass[l], int32(i))
	}
	rows := make([][]int32, len(classes))
	for k, c := range classes {
		members := byClass[c]
		rows[k] = make([]int32, len(members))
		for i, j := range random.New(stream.Uint64(1), "images", name, c).Permutation(len(members)) {
			rows[k][i] = members[j]
		}
	}
	if balance {
		balanceRows(rows)
	}
	available := 0
	for _, r := range rows {
		available += len(r)
	}
	if count < 0 {
		return Split{}, anynetx.Inputf("subset of %s: %d %s images are asked for; the number must not be negative (0: all)", s.Name, count, name)
	}
	if count > 0 {
		for k := range rows {
			share := count / len(rows)
			if k < count%len(rows) {
				share++
			}
			if len(rows[k]) < share {
				return Split{}, anynetx.Inputf("subset of %s: %d %s images spread evenly over %d classes are %d of each, and class %q has %d; at most %d can be asked for (0: all %d, not evenly)",
					s.Name, count, name, len(rows), share, s.Classes[classes[k]], len(rows[k]), evenlyAvailable(rows), available)
			}
		}
		available = count
	}
	pixels := s.H * s.W * s.C
	part := Split{Images: make([]byte, 0, available*pixels), Labels: make([]int32, 0, available)}
	for rank := 0; len(part.Labels) < available; rank++ {
		for k := range rows {
			if rank < len(rows[k]) && len(part.Labels) < available {
				i := int(rows[k][rank])
				part.Images = append(part.Images, from.Images[i*pixels:(i+1)*pixels]...)
				part.Labels = append(part.Labels, int32(k))
			}
		}
	}
	return part, nil
}

// evenlyAvailable is the largest number of images whose even spread the classes can serve.
func evenlyAvailable(rows [][]int32) int {
	fewest := len(rows[0])
	for _, r := range rows {
		fewest = min(fewest, len(r))
	}
	total := fewest * len(rows)
	for _, r := range rows { // the first classes get one more, as long as they have it
		if len(r) == fewest {
			break
		}
		total++
	}
	return total
}

// balanceRows cuts the most common class to the size of the second most common one.
func balanceRows(rows [][]int32) {
	most, second := -1, 0
	for k := range rows {
		switch {
		case most < 0 || len(rows[k]) > len(rows[most]):
			if most >= 0 {
				second = max(second, len(rows[most]))
			}
			most = k
		default:
			second = max(second, len(rows[k]))
		}
	}
	rows[most] = rows[most][:min(len(rows[most]), second)]
}
