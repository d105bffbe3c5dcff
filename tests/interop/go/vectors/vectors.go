// Package vectors loads the test vectors in spec/vectors.
package vectors

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Hex is bytes that JSON has as hex digits.
type Hex []byte

// UnmarshalJSON reads a string of hex digits.
func (h *Hex) UnmarshalJSON(text []byte) error {
	var digits string
	err := json.Unmarshal(text, &digits)
	if err == nil {
		*h, err = hex.DecodeString(digits)
	}
	return err
}

// Fault is the error that a test has to end with.
type Fault struct {
	Code   string
	Offset *int
}

// Test is what the tests of all files have.
type Test struct {
	ID    string
	Flags []string
	Error *Fault
}

// Has reports whether the test has a flag.
func (v Test) Has(flag string) bool {
	for _, each := range v.Flags {
		if each == flag {
			return true
		}
	}
	return false
}

// Check compares an error's code, empty for none, and offset, -1 for none, with those of the test.
func (v Test) Check(t *testing.T, code string, offset int) {
	t.Helper()
	want := Fault{}
	if v.Error != nil {
		want = *v.Error
	}
	at := -1
	if want.Offset != nil {
		at = *want.Offset
	}
	if code != want.Code || offset != at {
		t.Errorf("error %q at %d, want %q at %d", code, offset, want.Code, at)
	}
}

// Load returns the tests of a file of vectors.
func Load[T any](t *testing.T, name string) []T {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../../spec/vectors", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Tests []T }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []T
	for _, group := range file.Groups {
		all = append(all, group.Tests...)
	}
	if len(all) == 0 {
		t.Fatalf("no tests in %s", name)
	}
	return all
}

// Canonical returns JSON text with its keys in order and without white space. Numbers keep all of their digits.
func Canonical(t *testing.T, text []byte) []byte {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return again
}
