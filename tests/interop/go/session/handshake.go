package session

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"math/big"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/hkdf"

	"wirepeer/wire"
)

const info = "darkbloom-cluster-session-v1"

// beforeSession is what frames of the handshake are decoded by, whatever the revision of the session.
var beforeSession = wire.Dialect{Revision: 2}

// Identity is the key of this side, and the one that it expects of its peer.
type Identity struct {
	Own *ecdsa.PrivateKey
	Pin []byte // X ‖ Y; nil for no peer
}

// Handshake is one side of a handshake.
type Handshake struct {
	Identity
	scalar []byte // X25519
	public []byte
	nonce  []byte
}

// NewHandshake returns a side with fresh secrets.
func NewHandshake(identity Identity) (*Handshake, error) {
	secrets := make([]byte, 64)
	if _, err := rand.Read(secrets); err != nil {
		return nil, err
	}
	return withSecrets(identity, secrets[:32], secrets[32:])
}

func withSecrets(identity Identity, scalar, nonce []byte) (*Handshake, error) {
	public, err := curve25519.X25519(scalar, curve25519.Basepoint)
	if err != nil {
		return nil, err
	}
	return &Handshake{identity, scalar, public, nonce}, nil
}

// Hello returns rank 0's frame.
func (h *Handshake) Hello() ([]byte, error) {
	return h.introduce(wire.HandshakeHello, commitment(h.public, h.nonce))
}

// Accept takes rank 0's hello and returns rank 1's ack and the session key.
func (h *Handshake) Accept(hello []byte) (ack, key []byte, err error) {
	theirs, err := introduction(hello, wire.HandshakeHello)
	if err != nil {
		return nil, nil, err
	}
	shared, err := h.check(theirs, commitment(theirs.Ephemeral, theirs.Nonce))
	if err != nil {
		return nil, nil, err
	}
	ack, err = h.introduce(wire.HandshakeAck, commitment(theirs.Nonce, h.nonce, h.public))
	if err != nil {
		return nil, nil, err
	}
	key, err = sessionKey(shared, theirs.Nonce, h.nonce)
	return ack, key, err
}

// Finish takes rank 1's ack and returns the session key.
func (h *Handshake) Finish(ack []byte) ([]byte, error) {
	theirs, err := introduction(ack, wire.HandshakeAck)
	if err != nil {
		return nil, err
	}
	shared, err := h.check(theirs, commitment(h.nonce, theirs.Nonce, theirs.Ephemeral))
	if err != nil {
		return nil, err
	}
	return sessionKey(shared, h.nonce, theirs.Nonce)
}

func (h *Handshake) introduce(kind wire.Type, commitment []byte) ([]byte, error) {
	digest := sha256.Sum256(commitment)
	signature, err := ecdsa.SignASN1(rand.Reader, h.Own, digest[:])
	if err != nil {
		return nil, err
	}
	return wire.Encode(wire.Message{Type: kind, Payload: &wire.Introduction{
		Identity:  PublicKey(h.Own),
		Ephemeral: h.public,
		Nonce:     h.nonce,
		Signature: signature,
	}})
}

// introduction decodes a hello or an ack.
func introduction(frame []byte, want wire.Type) (*wire.Introduction, error) {
	message, err := beforeSession.Decode(frame)
	var wrong *wire.Error
	switch {
	case errors.As(err, &wrong) && wrong.Code == "field-length":
		return nil, fault("handshake-length", wrong.Offset)
	case wrong != nil:
		return nil, fault("handshake-malformed", wrong.Offset)
	case err != nil:
		return nil, err
	case message.Type != want:
		return nil, fault("handshake-unexpected", 0)
	}
	return message.Payload.(*wire.Introduction), nil
}

// check checks all that is not the form of the peer's frame, and returns the shared secret.
func (h *Handshake) check(theirs *wire.Introduction, commitment []byte) ([]byte, error) {
	if h.Pin == nil {
		return nil, fault("handshake-no-pin", wire.NoOffset)
	}
	if !bytes.Equal(theirs.Identity, h.Pin) {
		return nil, fault("handshake-wrong-pin", wire.NoOffset)
	}
	x, y := new(big.Int).SetBytes(theirs.Identity[:32]), new(big.Int).SetBytes(theirs.Identity[32:])
	if !elliptic.P256().IsOnCurve(x, y) {
		return nil, fault("handshake-point", wire.NoOffset)
	}
	digest := sha256.Sum256(commitment)
	identity := &ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y}
	if !ecdsa.VerifyASN1(identity, digest[:], theirs.Signature) {
		return nil, fault("handshake-signature", wire.NoOffset)
	}
	shared, err := curve25519.X25519(h.scalar, theirs.Ephemeral) // which refuses an all-zero secret
	if err != nil {
		return nil, fault("handshake-shared-secret", wire.NoOffset)
	}
	return shared, nil
}

func commitment(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

func sessionKey(shared, nonce0, nonce1 []byte) ([]byte, error) {
	key := make([]byte, 32)
	salt := append(append([]byte{}, nonce0...), nonce1...)
	_, err := io.ReadFull(hkdf.New(sha256.New, shared, salt, []byte(info)), key)
	return key, err
}

// PublicKey returns X ‖ Y.
func PublicKey(key *ecdsa.PrivateKey) []byte {
	return elliptic.Marshal(elliptic.P256(), key.X, key.Y)[1:]
}
