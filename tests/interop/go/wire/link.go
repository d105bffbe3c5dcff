package wire

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	lengthSize = 8
	firstChunk = 64 << 10
)

// LinkReader reads link frames from a stream.
type LinkReader struct {
	Limit  uint64 // of a body
	stream io.Reader
	offset int
}

// NewLinkReader returns a reader of the frames of a stream.
func NewLinkReader(stream io.Reader, limit uint64) *LinkReader {
	return &LinkReader{Limit: limit, stream: stream}
}

// Next returns the body of the next frame. The error is io.EOF if the stream ends between two frames.
func (r *LinkReader) Next() ([]byte, error) {
	var header [lengthSize]byte
	start := r.offset
	n, err := io.ReadFull(r.stream, header[:])
	r.offset += n
	if err != nil {
		return nil, r.ended(err)
	}
	length := binary.LittleEndian.Uint64(header[:])
	switch {
	case length == 0:
		return nil, fault("link-length-zero", start)
	case length > r.Limit:
		return nil, fault("link-length-limit", start)
	}
	return r.body(int(length))
}

// body takes memory as bytes arrive: the length comes from an unauthenticated peer.
func (r *LinkReader) body(length int) ([]byte, error) {
	body := make([]byte, min(length, firstChunk))
	for have := 0; ; {
		n, err := io.ReadFull(r.stream, body[have:])
		r.offset += n
		if have += n; have == length {
			return body, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, r.ended(err)
		}
		body = append(make([]byte, 0, min(length, 2*have)), body...)
		body = body[:cap(body)]
	}
}

// ended turns the end of the stream inside a frame into an Error.
func (r *LinkReader) ended(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fault("truncated", r.offset)
	}
	return err
}

// LinkFrame returns a link frame with the given body.
func LinkFrame(body []byte) []byte {
	frame := make([]byte, lengthSize, lengthSize+len(body))
	binary.LittleEndian.PutUint64(frame, uint64(len(body)))
	return append(frame, body...)
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
