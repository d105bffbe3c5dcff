package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"wirepeer/session"
)

const (
	confirmTime = 15 * time.Second
	vacateTime  = 250 * time.Millisecond
	maxWaiting  = 8
)

// listener is rank 1: at most one current session, and a few connections that are not confirmed yet.
type listener struct {
	config session.Config

	mu      sync.Mutex
	waiting []net.Conn // oldest first
	current net.Conn
	vacated chan struct{} // closed when current is free again
}

func listen(ctx context.Context, address string, config session.Config) error {
	socket, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		socket.Close()
	}()
	log.Printf("listening on %s", socket.Addr())
	l := &listener{config: config}
	for {
		conn, err := socket.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		l.admit(conn)
		go l.serve(conn.(*net.TCPConn))
	}
}

// admit counts a new connection, and ends the oldest of too many.
func (l *listener) admit(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == maxWaiting {
		l.waiting[0].Close()
		l.waiting = l.waiting[1:]
	}
	l.waiting = append(l.waiting, conn)
}

// replace makes a connection the current one, and closes the one before it.
func (l *listener) replace(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		log.Printf("%s takes the place of %s", conn.RemoteAddr(), l.current.RemoteAddr())
		l.current.Close()
	}
	l.install(conn)
}

// claim makes a connection the current one if there is none. It waits briefly: the end of the current one may have
// arrived without being read yet.
func (l *listener) claim(conn net.Conn) bool {
	late := time.After(vacateTime)
	for {
		vacated := l.tryClaim(conn)
		if vacated == nil {
			return true
		}
		select {
		case <-vacated:
		case <-late:
			return false
		}
	}
}

// tryClaim returns nil if the place was free, else what to wait for.
func (l *listener) tryClaim(conn net.Conn) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		return l.vacated
	}
	l.install(conn)
	return nil
}

func (l *listener) install(conn net.Conn) {
	l.current = conn
	l.vacated = make(chan struct{})
	l.forget(conn)
}

// forget removes a connection from those that wait.
func (l *listener) forget(conn net.Conn) {
	for i, each := range l.waiting {
		if each == conn {
			l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
			return
		}
	}
}

func (l *listener) release(conn net.Conn) {
	conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == conn {
		l.current = nil
		close(l.vacated)
	}
	l.forget(conn)
}

func (l *listener) serve(conn *net.TCPConn) {
	defer l.release(conn)
	err := l.talk(conn)
	if errors.Is(err, io.EOF) {
		err = errors.New("the stream has ended")
	}
	log.Printf("%s: %v", conn.RemoteAddr(), err)
}

var errTaken = errors.New("another session is there")

// talk is one connection from its first byte to its last.
func (l *listener) talk(conn *net.TCPConn) error {
	if err := tune(conn); err != nil {
		return err
	}
	s, err := session.Open(conn, l.config)
	if err != nil {
		return err
	}
	if l.config.Revision == 1 {
		if !l.claim(conn) {
			return errTaken
		}
	} else {
		if err := conn.SetReadDeadline(time.Now().Add(confirmTime)); err != nil {
			return err
		}
		s.Confirmed = func() {
			conn.SetReadDeadline(time.Time{})
			l.replace(conn)
		}
	}
	c := &conversation{session: s, extensions: s.Extensions()}
	defer c.end()
	for {
		message, err := s.Receive()
		if err != nil {
			return err
		}
		if err := c.handle(message); err != nil {
			return err
		}
	}
}
