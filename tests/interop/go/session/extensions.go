package session

import (
	"sync"

	"wirepeer/wire"
)

// extensions is what the two sides of a session have said of extensions.
type extensions struct {
	mu      sync.Mutex
	offered []string // by this side
	use     []string
}

// agreed returns the extensions whose frames may come.
func (e *extensions) agreed() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.use
}

// offer notes what rank 1's pong names: it stays offered.
func (e *extensions) offer(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.offered = union(e.offered, names)
}

// choose notes what rank 0's jacclBootstrap names. Frames of an earlier choice may still be under way.
func (e *extensions) choose(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.use = union(e.use, names)
}

// take notes what a jacclBootstrap has named to rank 1.
func (e *extensions) take(names []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		if !Contains(e.offered, name) {
			return fault("extension-not-offered", wire.NoOffset)
		}
	}
	e.use = names
	return nil
}

// Contains tells whether a name is among others.
func Contains(names []string, name string) bool {
	for _, each := range names {
		if each == name {
			return true
		}
	}
	return false
}

// union returns the names of both lists, each once, in memory of its own.
func union(a, b []string) []string {
	all := append([]string{}, a...)
	for _, name := range b {
		if !Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
