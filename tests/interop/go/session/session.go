// Package session is one side of an authenticated connection: its handshake, and the frames after it.
package session

import (
	"crypto/rand"
	"errors"
	"io"
	"log"
	"net"
	"sync/atomic"
	"time"

	"wirepeer/wire"
)

const (
	handshakeTime  = 10 * time.Second
	sendTime       = 10 * time.Second
	handshakeLimit = 64 << 10 // of a link frame
)

// Config is the part of a side that is the same in all of its sessions.
type Config struct {
	Role     wire.Rank
	Revision int
	Identity Identity
}

// Session is a connection whose handshake is done.
type Session struct {
	// Confirmed, if set, is called once, when the first box has opened.
	Confirmed func()

	role     wire.Rank
	revision int
	conn     net.Conn
	link     *wire.LinkReader
	sealer   *Sealer                      // nil in revision 1
	agreed   atomic.Pointer[wire.Dialect] // by which frames are decoded
}

// Open makes the handshake on a new connection, and leaves it without a deadline.
func Open(conn net.Conn, config Config) (*Session, error) {
	handshake, err := NewHandshake(config.Identity)
	if err != nil {
		return nil, err
	}
	s := &Session{
		role:     config.Role,
		revision: config.Revision,
		conn:     conn,
		link:     wire.NewLinkReader(conn, handshakeLimit),
	}
	s.Agree(nil)
	if err := conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	key, err := s.greet(handshake)
	if err != nil {
		return nil, err
	}
	if config.Revision > 1 {
		if s.sealer, err = NewSealer(key, rand.Reader); err != nil {
			return nil, err
		}
	}
	s.link.Limit = wire.MaxLinkLength
	return s, conn.SetDeadline(time.Time{})
}

func (s *Session) greet(handshake *Handshake) ([]byte, error) {
	if s.role == wire.Rank0 {
		hello, err := handshake.Hello()
		if err != nil {
			return nil, err
		}
		if err := s.write(hello); err != nil {
			return nil, err
		}
		ack, err := s.link.Next()
		if err != nil {
			return nil, err
		}
		return handshake.Finish(ack)
	}
	hello, err := s.link.Next()
	if err != nil {
		return nil, err
	}
	ack, key, err := handshake.Accept(hello)
	if err != nil {
		return nil, err
	}
	return key, s.write(ack)
}

// Agree sets the extensions whose frames may come from now on, in place of those before.
func (s *Session) Agree(extensions []string) {
	s.agreed.Store(&wire.Dialect{Revision: s.revision, Extensions: extensions})
}

// Send sends a message. Several goroutines may send at once.
func (s *Session) Send(kind wire.Type, payload any) error {
	frame, err := wire.Encode(wire.Message{Type: kind, Payload: payload})
	if err != nil {
		return err
	}
	if s.sealer != nil {
		if frame, err = s.sealer.Seal(frame); err != nil {
			return err
		}
	}
	return s.write(frame)
}

func (s *Session) write(body []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, err := s.conn.Write(wire.LinkFrame(body))
	return err
}

// Receive returns the next message that belongs to the session. The error is io.EOF if the stream ends between two frames.
func (s *Session) Receive() (wire.Message, error) {
	for {
		frame, err := s.link.Next()
		if err != nil {
			return wire.Message{}, err
		}
		if s.sealer != nil {
			if frame, err = s.sealer.Open(frame); err != nil {
				return wire.Message{}, err
			}
			if s.Confirmed != nil {
				s.Confirmed()
				s.Confirmed = nil
			}
		}
		message, err := s.agreed.Load().Decode(frame)
		if err != nil {
			return wire.Message{}, err
		}
		if s.expects(message.Type) {
			return message, nil
		}
		log.Printf("ignored unexpected %s", message.Type)
	}
}

// expects tells whether a message may come in the open session.
func (s *Session) expects(kind wire.Type) bool {
	switch kind {
	case wire.HandshakeHello, wire.HandshakeAck:
		return false
	}
	return kind.SentBy(wire.Rank1 - s.role)
}

// Close closes the connection, which ends Receive, too.
func (s *Session) Close() {
	s.conn.Close()
}

// Finish sends sessionEnd and reads on until the peer closes: closing a socket with unread bytes could reset the
// connection before the peer has read the end.
func (s *Session) Finish(patience time.Duration) error {
	if err := s.Send(wire.SessionEnd, nil); err != nil {
		return err
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, s.conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
