// Package wire encodes and decodes link frames and cluster frames.
package wire

import "fmt"

// NoOffset is the offset of an error that is not at any byte.
const NoOffset = -1

// Error says what is wrong with bytes that a peer sent.
type Error struct {
	Code   string // one of the specification's table
	Offset int    // from the start of what was decoded
}

func (e *Error) Error() string {
	if e.Offset == NoOffset {
		return e.Code
	}
	return fmt.Sprintf("%s at byte %d", e.Code, e.Offset)
}

func fault(code string, offset int) error {
	return &Error{code, offset}
}
