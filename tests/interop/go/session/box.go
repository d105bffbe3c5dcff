package session

import (
	"crypto/aes"
	"crypto/cipher"
	"io"
	"sync"

	"wirepeer/wire"
)

const (
	nonceSize = 12
	tagSize   = 16
	maxBoxes  = 1 << 20 // sealed and opened, which bounds the memory for their nonces
)

type nonce [nonceSize]byte

// Sealer seals and opens the boxes of one session key.
type Sealer struct {
	aead   cipher.AEAD
	random io.Reader

	mu     sync.Mutex
	sealed map[nonce]struct{}
	opened map[nonce]struct{}
}

// NewSealer returns a Sealer that draws its nonces from random.
func NewSealer(key []byte, random io.Reader) (*Sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead: aead, random: random, sealed: map[nonce]struct{}{}, opened: map[nonce]struct{}{}}, nil
}

func (s *Sealer) exhausted() bool {
	return len(s.sealed)+len(s.opened) >= maxBoxes
}

// Seal returns a box with the plaintext.
func (s *Sealer) Seal(plaintext []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exhausted() {
		return nil, fault("seal-exhausted", wire.NoOffset)
	}
	var fresh nonce
	if _, err := io.ReadFull(s.random, fresh[:]); err != nil {
		return nil, err
	}
	s.sealed[fresh] = struct{}{}
	box := make([]byte, nonceSize, nonceSize+len(plaintext)+tagSize)
	copy(box, fresh[:])
	return s.aead.Seal(box, fresh[:], plaintext, nil), nil
}

// Open returns what a box holds, in the memory of the box.
func (s *Sealer) Open(box []byte) ([]byte, error) {
	if len(box) < nonceSize+tagSize {
		return nil, fault("truncated", len(box))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var shown nonce
	copy(shown[:], box)
	if _, own := s.sealed[shown]; own {
		return nil, fault("seal-reflection", 0)
	}
	if _, again := s.opened[shown]; again {
		return nil, fault("seal-replay", 0)
	}
	ciphertext := box[nonceSize:]
	plaintext, err := s.aead.Open(ciphertext[:0], shown[:], ciphertext, nil)
	if err != nil {
		return nil, fault("seal-tag", 0)
	}
	if s.exhausted() {
		return nil, fault("seal-exhausted", wire.NoOffset)
	}
	s.opened[shown] = struct{}{}
	return plaintext, nil
}

func fault(code string, offset int) error {
	return &wire.Error{Code: code, Offset: offset}
}
