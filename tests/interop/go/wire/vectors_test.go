package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"wirepeer/vectors"
)

func TestClusterFrames(t *testing.T) {
	type test struct {
		vectors.Test
		Revision   int
		Extensions []string
		Frame      vectors.Hex
		Message    json.RawMessage
	}
	for _, v := range vectors.Load[test](t, "cluster_frame") {
		t.Run(v.ID, func(t *testing.T) {
			dialect := Dialect{Revision: v.Revision, Extensions: v.Extensions}
			message, err := dialect.Decode(v.Frame)
			if !same(t, v.Test, err) {
				return
			}
			checkJSON(t, message, v.Message)
			again, err := Encode(message)
			if err != nil {
				t.Fatal(err)
			}
			if message, err = dialect.Decode(again); err != nil {
				t.Fatal(err)
			}
			checkJSON(t, message, v.Message)
		})
	}
}

func TestLinkStreams(t *testing.T) {
	type test struct {
		vectors.Test
		Stream    vectors.Hex
		MaxLength uint64
		Bodies    []vectors.Hex
	}
	for _, v := range vectors.Load[test](t, "link_stream") {
		t.Run(v.ID, func(t *testing.T) {
			limit := v.MaxLength
			if limit == 0 {
				limit = MaxLinkLength
			}
			for _, stream := range []io.Reader{bytes.NewReader(v.Stream), iotest.OneByteReader(bytes.NewReader(v.Stream))} {
				reader := NewLinkReader(stream, limit)
				for _, want := range v.Bodies {
					body, err := reader.Next()
					if err != nil || !bytes.Equal(body, want) {
						t.Fatalf("body %x, error %v; want %x", body, err, want)
					}
				}
				_, err := reader.Next()
				if errors.Is(err, io.EOF) {
					err = nil
				}
				same(t, v.Test, err)
			}
		})
	}
}

// same checks an error against that of a vector, and tells whether there is none.
func same(t *testing.T, v vectors.Test, err error) bool {
	t.Helper()
	var wrong *Error
	if errors.As(err, &wrong) {
		v.Check(t, wrong.Code, wrong.Offset)
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	v.Check(t, "", NoOffset)
	return true
}

func checkJSON(t *testing.T, got any, want []byte) {
	t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(vectors.Canonical(t, text), vectors.Canonical(t, want)) {
		t.Errorf("got %.500s, want %.500s", text, want)
	}
}
