package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
)

// A journal is a file of JSON records, one a line, each behind its CRC-32C: "89abcdef {...}\n". What follows the first line that does
// not verify is the tail that a kill tore off; it is dropped.
type journal struct {
	file   *os.File
	path   string
	bytes  int64
	sum    uint32 // CRC-32C of all bytes so far
	sticky error
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// createJournal makes a journal that begins with the given bytes of another.
func createJournal(path string, begin []byte) (*journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, diskError(err)
	}
	j := &journal{file: f, path: path}
	if len(begin) == 0 {
		return j, nil
	}
	if err := j.write(begin); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func (j *journal) append(record any) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	return j.write(fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, castagnoli), text))
}

func (j *journal) write(data []byte) error {
	if j.sticky != nil {
		return j.sticky // what follows a torn line would be lost
	}
	if _, err := j.file.Write(data); err != nil {
		j.sticky = diskError(err)
		return j.sticky
	}
	if err := j.file.Sync(); err != nil {
		j.sticky = diskError(err)
		return j.sticky
	}
	j.bytes += int64(len(data))
	j.sum = crc32.Update(j.sum, castagnoli, data)
	return nil
}

func (j *journal) Close() error { return j.file.Close() }

// journalLines splits a journal into its records, and says how many bytes of it are good.
func journalLines(data []byte) (records []json.RawMessage, good int) {
	for {
		end := bytes.IndexByte(data[good:], '\n')
		if end < 0 {
			return records, good
		}
		line := data[good : good+end]
		if len(line) < 10 || line[8] != ' ' {
			return records, good
		}
		want, err := strconv.ParseUint(string(line[:8]), 16, 32)
		if err != nil || uint32(want) != crc32.Checksum(line[9:], castagnoli) {
			return records, good
		}
		records = append(records, json.RawMessage(line[9:]))
		good += end + 1
	}
}

// readJournal reads the records of a journal into rows; a record that is no T ends it.
func readJournal[T any](data []byte) []T {
	records, _ := journalLines(data)
	var rows []T
	for _, record := range records {
		var row T
		if json.Unmarshal(record, &row) != nil {
			break
		}
		rows = append(rows, row)
	}
	return rows
}
