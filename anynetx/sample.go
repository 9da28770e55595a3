package anynetx

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// Member is an architecture of a population.
type Member struct {
	Architecture Architecture
	Complexity   Complexity // in the space's setting
	Index        uint64     // the candidate it was
}

// Population is what Sample found. The counts are over candidates 0 to Drawn-1, the last of which is the last member.
type Population struct {
	Members  []Member
	Drawn    uint64
	InBand   uint64 // of those drawn, repeated ones too
	Repeated uint64 // of those in the band: same ID as an earlier one
}

// AcceptanceRate is the part of the drawn candidates that lies in the band.
func (p Population) AcceptanceRate() float64 { return float64(p.InBand) / float64(p.Drawn) }

const (
	// MaxCount bounds a population.
	MaxCount = 1_000_000
	// sampleChunk candidates are judged by one goroutine at a time; the result does not depend on it.
	sampleChunk = 256
)

// DefaultMaxDraws is how many candidates are worth drawing for a population of count: enough at an acceptance rate of 0.1 % (the
// paper's band has 2.4 %), and some seconds of work for a small count.
func DefaultMaxDraws(count int) uint64 { return 100_000 + 1000*uint64(max(count, 0)) }

// Sample takes the first count candidates of the seed that lie in the band, leaving out repeated IDs, in order of their index: the
// same population on every machine and any number of cores. It gives up after maxDraws candidates (0: DefaultMaxDraws).
func (s Space) Sample(seed uint64, count int, maxDraws uint64) (Population, error) {
	var p Population
	if err := s.Validate(); err != nil {
		return p, err
	}
	if count < 1 || count > MaxCount {
		return p, Inputf("count is %d, must be 1 to %d", count, MaxCount)
	}
	if maxDraws == 0 {
		maxDraws = DefaultMaxDraws(count)
	}
	nearest := s.Band.nearest()
	taken := map[Architecture]bool{}
	for p.Drawn < maxDraws {
		workers := uint64(runtime.GOMAXPROCS(0))
		judged := s.judge(seed, p.Drawn, min(maxDraws-p.Drawn, 4*workers*sampleChunk))
		for _, m := range judged {
			p.Drawn++
			nearest.see(m.Complexity)
			if !s.Band.Contains(m.Complexity) {
				continue
			}
			p.InBand++
			if taken[m.Architecture] {
				p.Repeated++
				continue
			}
			taken[m.Architecture] = true
			p.Members = append(p.Members, m)
			if len(p.Members) == count {
				return p, nil
			}
		}
	}
	advice := "draw more candidates, or widen the band"
	if nearest.oneSided() {
		advice = "move or widen the band, or change the ranges of depth and width"
	} else if p.Repeated > p.InBand/2 {
		advice = "the space is nearly used up: ask for fewer, or widen its ranges or its band"
	}
	return p, Inputf("only %d of %d architectures found in %d candidates (%d in the band: %s; %d repeated)%s: %s",
		len(p.Members), count, p.Drawn, p.InBand, s.Band, p.Repeated, nearest, advice)
}

// judge works out n candidates from index first on.
func (s Space) judge(seed, first, n uint64) []Member {
	list := make([]Member, n)
	var next atomic.Uint64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				end := next.Add(sampleChunk)
				start := end - sampleChunk
				if start >= n {
					return
				}
				for i := start; i < min(end, n); i++ {
					a := s.Candidate(seed, first+i)
					list[i] = Member{a, work(a, s.Setting).Complexity(), first + i}
				}
			}
		})
	}
	group.Wait()
	return list
}

// neighbours are the counts nearest to a band that candidates had, for the message that a band is out of reach.
type neighbours []neighbour

type neighbour struct {
	bandPart
	below, above int64 // -1: none yet
	within       int
}

func (b Band) nearest() neighbours {
	var list neighbours
	for _, part := range b.parts() {
		if part.Low != 0 || part.High != 0 {
			list = append(list, neighbour{bandPart: part, below: -1, above: -1})
		}
	}
	return list
}

func (list neighbours) see(c Complexity) {
	for i := range list {
		n := &list[i]
		switch v := n.of(c); {
		case v < n.Low:
			n.below = max(n.below, v)
		case n.High != 0 && v > n.High:
			if n.above < 0 || v < n.above {
				n.above = v
			}
		default:
			n.within++
		}
	}
}

// oneSided says whether everything seen of some count lay below the band, or everything above it.
func (list neighbours) oneSided() bool {
	for _, n := range list {
		if n.within == 0 && (n.below < 0 || n.above < 0) {
			return true
		}
	}
	return false
}

func (list neighbours) String() string {
	var text strings.Builder
	for _, n := range list {
		fmt.Fprintf(&text, "; %s: %d within", n.name, n.within)
		if n.below >= 0 {
			fmt.Fprintf(&text, ", nearest below %d", n.below)
		}
		if n.above >= 0 {
			fmt.Fprintf(&text, ", nearest above %d", n.above)
		}
	}
	return text.String()
}
