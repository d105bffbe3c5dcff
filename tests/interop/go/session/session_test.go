package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"wirepeer/vectors"
	"wirepeer/wire"
)

// script is a connection on which bytes are there from the beginning, and on which everything can be written.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(to []byte) (int, error)      { return s.Reader.Read(to) }
func (s script) Write(from []byte) (int, error)   { return len(from), nil }
func (s script) SetDeadline(time.Time) error      { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

type step struct {
	Do           string
	Bytes, Nonce vectors.Hex
	Message      message
	Events       []struct {
		Event   string
		Message message
	}
}

type message struct {
	Type    wire.Type
	Payload json.RawMessage
}

// decode returns the message as package wire has it.
func (m message) decode(t *testing.T) wire.Message {
	t.Helper()
	frame := []byte{byte(m.Type)}
	switch m.Type {
	case wire.Ping, wire.SessionEnd, wire.InferenceStep, wire.InferenceToken:
	default:
		frame = append(frame, m.Payload...)
	}
	decoded, err := wire.Dialect{Revision: 2, Extensions: []string{wire.Outcome1}}.Decode(frame)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestSessions(t *testing.T) {
	type test struct {
		vectors.Test
		Role       string
		Revision   int
		Extensions []string
		Secrets    secrets
		Steps      []step
	}
	for _, v := range vectors.Load[test](t, "session") {
		if len(v.Extensions) == 0 && v.Has("for-extensions") {
			continue
		}
		t.Run(v.ID, func(t *testing.T) {
			config := Config{Role: wire.Rank1, Revision: v.Revision, Extensions: v.Extensions}
			if v.Role == "rank 0" {
				config.Role = wire.Rank0
			}
			stream, nonces := new(bytes.Buffer), new(bytes.Buffer)
			for _, step := range v.Steps {
				if step.Do == "receive" {
					stream.Write(step.Bytes)
				}
				nonces.Write(step.Nonce)
			}
			s, err := open(script{Reader: stream}, config, v.Secrets.handshake(t), nonces)
			if err == nil {
				err = play(t, s, v.Steps)
			}
			ends := v.Steps[len(v.Steps)-1].Do == "end"
			if v.Error == nil && (errors.Is(err, io.EOF) || !ends) {
				return
			}
			check(t, v.Test, err)
		})
	}
}

// play sends and receives what the steps want, and returns the error at their end.
func play(t *testing.T, s *Session, steps []step) error {
	confirmed, want := false, false
	s.Confirmed = func() { confirmed = true }
	defer func() {
		if s.sealer != nil && confirmed != want {
			t.Errorf("confirmed: %v, want %v", confirmed, want)
		}
	}()
	for _, step := range steps {
		if step.Do == "send" {
			message := step.Message.decode(t)
			if err := s.Send(message.Type, message.Payload); err != nil {
				t.Fatal(err)
			}
		}
		for _, event := range step.Events {
			switch event.Event {
			case "confirmed":
				want = true
			case "message":
				message, err := s.Receive()
				if err != nil {
					return err
				}
				if message.Type != event.Message.Type {
					t.Errorf("received %s, want %s", message.Type, event.Message.Type)
				}
				if message.Type == wire.SessionEnd {
					return nil
				}
			}
		}
	}
	message, err := s.Receive()
	if err == nil {
		t.Errorf("received %s, which no step has", message.Type)
	}
	return err
}
