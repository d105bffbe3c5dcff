package main

import (
	"errors"
	"log"

	"wirepeer/session"
	"wirepeer/wire"
)

const groupSize = 2

var (
	errEnd  = errors.New("sessionEnd")
	errPort = errors.New("the coordinator's port cannot be used")
)

// conversation is rank 1's side of an open session.
type conversation struct {
	session    *session.Session
	extensions []string // to offer; none for a peer without extensions
	outcomes   *outcomes
}

func (c *conversation) handle(message wire.Message) error {
	switch message.Type {
	case wire.Ping:
		return c.session.Send(wire.Pong, &wire.Health{ModelLoaded: true, MemoryPressure: "normal", Extensions: c.extensions})
	case wire.JacclBootstrap:
		return c.bootstrap(message.Payload.(*wire.Bootstrap))
	case wire.Outcome, wire.Versions:
		c.outcomes.hear(message)
	case wire.SessionEnd:
		return errEnd
	default:
		log.Printf("handed on %s", message.Type)
	}
	return nil
}

func (c *conversation) bootstrap(frame *wire.Bootstrap) error {
	if frame.Port == 0 || frame.Port+groupSize-1 > 65535 {
		return errPort
	}
	log.Printf("bootstrap at port %d, session ID %.200q", frame.Port, frame.SessionID)
	c.end()
	if len(c.extensions) == 0 || !session.Contains(frame.Extensions, wire.Outcome1) {
		return nil
	}
	var err error
	c.outcomes, err = startOutcomes(c.session, wire.Rank1)
	return err
}

// end releases what the last jacclBootstrap agreed on.
func (c *conversation) end() {
	c.outcomes.end()
	c.outcomes = nil
}
