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
	maxWaiting  = 8
)

// listener is rank 1. It has at most one session that counts, and a few connections that are yet to prove themselves.
type listener struct {
	config     session.Config
	extensions []string

	mu      sync.Mutex
	waiting []net.Conn // oldest first
	current net.Conn
}

func listen(ctx context.Context, address string, extensions []string, config session.Config) error {
	socket, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		socket.Close()
	}()
	log.Printf("listening on %s", socket.Addr())
	l := &listener{config: config, extensions: extensions}
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

// replace makes a connection the one that counts, and closes the one before it.
func (l *listener) replace(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		log.Printf("%s takes the place of %s", conn.RemoteAddr(), l.current.RemoteAddr())
		l.current.Close()
	}
	l.current = conn
	l.forget(conn)
}

// claim makes a connection the one that counts if there is none.
func (l *listener) claim(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		return false
	}
	l.current = conn
	l.forget(conn)
	return true
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
	c := &conversation{session: s, extensions: l.extensions}
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
