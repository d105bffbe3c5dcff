package main

import (
	"context"
	"errors"
	"log"
	"net"
	"syscall"
	"time"

	"wirepeer/session"
)

const (
	connectTime   = 10 * time.Second
	reconnectTime = 10 * time.Second
	retryTime     = time.Second // where nobody listens yet
)

// connect is rank 0: one session after the other, until one is done or ctx is.
func connect(ctx context.Context, address string, port int64, config session.Config) error {
	for {
		err := attempt(ctx, address, port, config)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		log.Printf("session ended: %v", err)
		wait := reconnectTime
		if errors.Is(err, syscall.ECONNREFUSED) {
			wait = retryTime
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func attempt(ctx context.Context, address string, port int64, config session.Config) error {
	dialer := net.Dialer{Timeout: connectTime}
	conn, err := dialer.DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := tune(conn.(*net.TCPConn)); err != nil {
		return err
	}
	s, err := session.Open(conn, config)
	if err != nil {
		return err
	}
	a := &asker{session: s, port: port, extensions: s.Extensions()}
	defer a.outcomes.end()
	return a.run(ctx)
}
