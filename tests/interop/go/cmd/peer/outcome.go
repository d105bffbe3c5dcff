package main

import (
	"fmt"
	"log"
	"time"

	"wirepeer/session"
	"wirepeer/wire"
)

const (
	versionsTime = 3 * time.Second
	repeatTime   = 5 * time.Second
)

// own describes this rank: it runs a command that does nothing and succeeds at once.
var own = wire.Software{Package: "wirepeer", Backend: "jaccl", Program: "command"}

// outcomes is outcome/1 in one session, from the jacclBootstrap that agrees on it to the next or to the session's end.
type outcomes struct {
	session *session.Session
	rank    wire.Rank
	heard   chan wire.Message
	stop    chan struct{}
	stopped chan struct{}
	done    chan struct{} // closed when both ranks have finished

	finished bool // this rank
	complete bool // both
	failed   bool // either
}

// startOutcomes sends the versions of this rank and answers what comes.
func startOutcomes(s *session.Session, rank wire.Rank) (*outcomes, error) {
	if err := s.Send(wire.Versions, &own); err != nil {
		return nil, err
	}
	o := &outcomes{
		session: s,
		rank:    rank,
		heard:   make(chan wire.Message),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}
	go func() {
		defer close(o.stopped)
		if err := o.run(); err != nil {
			log.Print(err)
			s.Close()
		}
	}()
	return o, nil
}

// hear takes an outcome or versions of the other side.
func (o *outcomes) hear(message wire.Message) {
	select {
	case o.heard <- message:
	case <-o.stopped:
	}
}

// end stops what startOutcomes began: nothing is sent after it. On nil it does nothing.
func (o *outcomes) end() {
	if o != nil {
		close(o.stop)
		<-o.stopped
	}
}

// finish returns a channel that closes when both ranks have finished.
func (o *outcomes) finish() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.done
}

func (o *outcomes) run() error {
	late := time.NewTimer(versionsTime)
	defer late.Stop()
	repeat := time.NewTicker(repeatTime)
	defer repeat.Stop()
	for {
		var err error
		select {
		case <-o.stop:
			return nil
		case <-late.C:
			if !o.finished {
				err = o.fail("versions-timeout", "no versions came")
			}
		case <-repeat.C:
			if o.finished && !o.failed {
				err = o.say("finished")
			}
		case message := <-o.heard:
			err = o.take(message.Payload)
		}
		if err != nil {
			return err
		}
	}
}

func (o *outcomes) take(payload any) error {
	switch payload := payload.(type) {
	case *wire.Software:
		if reason := differ(payload); reason != "" {
			return o.fail("versions-differ", reason)
		}
		return o.runCommand()
	case *wire.Report:
		log.Printf("rank %d: %s %.200q", payload.Rank, payload.State, payload.Message)
		return o.report(payload)
	}
	return nil
}

// differ says why this rank's command cannot be in one group with the other side's program; empty if it can.
func differ(theirs *wire.Software) string {
	program := theirs.Program
	if program == "" && theirs.MLX != "" {
		program = "hold"
	}
	switch {
	case theirs.Backend != own.Backend:
		return fmt.Sprintf("the backends are %q and %.100q", own.Backend, theirs.Backend)
	case program != "" && program != own.Program:
		return fmt.Sprintf("the programs are %q and %q", own.Program, program)
	}
	return ""
}

func (o *outcomes) runCommand() error {
	if o.finished || o.failed {
		return nil
	}
	o.finished = true
	if err := o.say("started"); err != nil {
		return err
	}
	return o.say("finished")
}

func (o *outcomes) say(state string) error {
	return o.session.Send(wire.Outcome, &wire.Report{Rank: int64(o.rank), State: state})
}

// fail says that this rank has failed, unless a failure is known.
func (o *outcomes) fail(code, message string) error {
	if o.failed {
		return nil
	}
	o.failed = true
	report := &wire.Report{Rank: int64(o.rank), State: "failed", Stage: "versions", Code: code, Message: message}
	return o.session.Send(wire.Outcome, report)
}

// report takes what the other side says. Rank 0 sends the first of all failures to every rank, also to the one whose it
// is; what another rank says of a third means nothing.
func (o *outcomes) report(report *wire.Report) error {
	if o.rank == wire.Rank0 && report.Rank != int64(wire.Rank1) {
		return nil
	}
	switch {
	case report.State == "finished" && o.finished && !o.complete:
		o.complete = true
		close(o.done)
	case report.State == "failed" && !o.failed:
		o.failed = true
		if o.rank == wire.Rank0 {
			return o.session.Send(wire.Outcome, report)
		}
	}
	return nil
}
