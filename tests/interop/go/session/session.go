// Package session is one side of an authenticated connection: its handshake, and the frames after it.
package session

import (
	"crypto/rand"
	"io"
	"log"
	"net"
	"time"

	"wirepeer/wire"
)

const (
	handshakeTime  = 10 * time.Second
	sendTime       = 10 * time.Second
	handshakeLimit = 64 << 10 // of a link frame
)

// Config is what all sessions of a side have in common.
type Config struct {
	Role       wire.Rank
	Revision   int
	Identity   Identity
	Extensions []string // of revision 2; none for a side without extensions
}

// Session is a connection whose handshake is done.
type Session struct {
	// Confirmed, if set, is called once, when the first box has opened.
	Confirmed func()

	config     Config
	conn       net.Conn
	link       *wire.LinkReader
	sealer     *Sealer // nil in revision 1
	extensions extensions
}

// Open makes the handshake on a new connection, and leaves it without a deadline.
func Open(conn net.Conn, config Config) (*Session, error) {
	handshake, err := NewHandshake(config.Identity)
	if err != nil {
		return nil, err
	}
	return open(conn, config, handshake, rand.Reader)
}

// open is Open with the secrets given.
func open(conn net.Conn, config Config, handshake *Handshake, nonces io.Reader) (*Session, error) {
	if config.Revision == 1 {
		config.Extensions = nil
	}
	s := &Session{config: config, conn: conn, link: wire.NewLinkReader(conn, handshakeLimit)}
	if err := conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	key, err := s.greet(handshake)
	if err != nil {
		return nil, err
	}
	if config.Revision > 1 {
		if s.sealer, err = NewSealer(key, nonces); err != nil {
			return nil, err
		}
	}
	s.link.Limit = wire.MaxLinkLength
	return s, conn.SetDeadline(time.Time{})
}

func (s *Session) greet(handshake *Handshake) ([]byte, error) {
	if s.config.Role == wire.Rank0 {
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

// Extensions returns the names that this side may offer or choose.
func (s *Session) Extensions() []string {
	return s.config.Extensions
}

// Send sends a message. Several goroutines may send at once.
func (s *Session) Send(kind wire.Type, payload any) error {
	switch payload := payload.(type) {
	case *wire.Health:
		s.extensions.offer(payload.Extensions)
	case *wire.Bootstrap:
		s.extensions.choose(payload.Extensions)
	}
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
		dialect := wire.Dialect{Revision: s.config.Revision, Extensions: s.extensions.agreed()}
		message, err := dialect.Decode(frame)
		if err != nil {
			return wire.Message{}, err
		}
		if !s.expects(message.Type) {
			log.Printf("ignored unexpected %s", message.Type)
			continue
		}
		if bootstrap, ok := message.Payload.(*wire.Bootstrap); ok && len(s.config.Extensions) > 0 {
			err = s.extensions.take(bootstrap.Extensions)
		}
		return message, err
	}
}

// expects tells whether a message may come in the open session.
func (s *Session) expects(kind wire.Type) bool {
	switch kind {
	case wire.HandshakeHello, wire.HandshakeAck:
		return false
	}
	return kind.SentBy(wire.Rank1 - s.config.Role)
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
	if half, ok := s.conn.(*net.TCPConn); ok {
		half.CloseWrite()
	}
	s.conn.SetReadDeadline(time.Now().Add(patience))
	io.Copy(io.Discard, s.conn)
	return nil
}
