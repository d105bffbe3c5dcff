package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"time"

	"wirepeer/session"
	"wirepeer/wire"
)

const (
	pingInterval = 5 * time.Second
	pongTime     = 3 * time.Second
	maxMissed    = 3
	endTime      = time.Second // for the peer to close after sessionEnd
)

// watch counts the pings that have no pong.
type watch struct {
	sent, answered int
	missed         int
	waiting        bool // for the pong of the last ping
	plain          bool // the peer has no extensions, and has been sent jacclBootstrap
	before         int  // pings sent before that
}

func (w *watch) ping() {
	w.sent++
	w.waiting = true
}

func (w *watch) pong() {
	w.answered++
	w.missed = 0
	w.waiting = false
}

// late counts a ping whose time is over, and tells whether the peer is gone. A plain peer that has answered reads nothing
// while its group forms: until its first pong to a ping sent after jacclBootstrap it may miss any number.
func (w *watch) late() bool {
	if w.waiting {
		w.missed++
	}
	forming := w.plain && 0 < w.answered && w.answered <= w.before
	return w.missed >= maxMissed && !forming
}

// asker is rank 0's side of an open session.
type asker struct {
	session    *session.Session
	port       int64
	extensions []string // to choose from; none for a peer without extensions
	watch      watch
	offering   bool     // a pong has offered extensions
	chosen     []string // of what all pongs have offered
	sent       bool     // jacclBootstrap
	outcomes   *outcomes
}

// run returns nil once sessionEnd is sent.
func (a *asker) run(ctx context.Context) error {
	messages, failed := make(chan wire.Message), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			message, err := a.session.Receive()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- message:
			case <-ctx.Done():
				return
			}
		}
	}()

	if err := a.ping(); err != nil {
		return err
	}
	if len(a.extensions) == 0 {
		if err := a.bootstrap(); err != nil {
			return err
		}
	}
	pings := time.NewTicker(pingInterval)
	defer pings.Stop()
	late := time.NewTimer(pongTime)
	defer late.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return a.session.Finish(endTime)
		case <-a.outcomes.finish():
			return a.session.Finish(endTime)
		case err = <-failed:
		case message := <-messages:
			err = a.handle(message)
		case <-pings.C:
			err = a.ping()
			late.Reset(pongTime)
		case <-late.C:
			if a.watch.late() {
				err = fmt.Errorf("%d pings without a pong", a.watch.missed)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (a *asker) ping() error {
	a.watch.ping()
	return a.session.Send(wire.Ping, nil)
}

func (a *asker) handle(message wire.Message) error {
	switch message.Type {
	case wire.Pong:
		a.watch.pong()
		return a.pong(message.Payload.(*wire.Health))
	case wire.Outcome, wire.Versions:
		a.outcomes.hear(message)
	default:
		log.Printf("handed on %s", message.Type)
	}
	return nil
}

// pong sends jacclBootstrap once it is known what the peer offers: in a pong without extensions, or in one that says that
// the offer is complete.
func (a *asker) pong(health *wire.Health) error {
	for _, name := range health.Extensions {
		a.offering = true
		if session.Contains(a.extensions, name) && !session.Contains(a.chosen, name) {
			a.chosen = append(a.chosen, name)
		}
	}
	if a.sent || a.offering && !health.ModelLoaded {
		return nil
	}
	return a.bootstrap()
}

func (a *asker) bootstrap() error {
	a.sent = true
	a.watch.before = a.watch.sent
	a.watch.plain = len(a.chosen) == 0
	frame := &wire.Bootstrap{Port: a.port, SessionID: freshID(), Extensions: a.chosen}
	if err := a.session.Send(wire.JacclBootstrap, frame); err != nil {
		return err
	}
	if !session.Contains(a.chosen, wire.Outcome1) {
		return nil
	}
	var err error
	a.outcomes, err = startOutcomes(a.session, wire.Rank0)
	return err
}

// freshID returns a random UUID in upper case.
func freshID() string {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err)
	}
	id[6] = id[6]&0x0F | 0x40
	id[8] = id[8]&0x3F | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
