package session

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"math/big"
	"testing"

	"wirepeer/vectors"
	"wirepeer/wire"
)

func check(t *testing.T, v vectors.Test, err error) {
	t.Helper()
	var wrong *wire.Error
	switch {
	case errors.As(err, &wrong):
		v.Check(t, wrong.Code, wrong.Offset)
	case err != nil:
		t.Fatal(err)
	default:
		v.Check(t, "", wire.NoOffset)
	}
}

type secrets struct {
	IdentityPrivate, EphemeralPrivate, Nonce, Pin vectors.Hex
}

func (s secrets) handshake(t *testing.T) *Handshake {
	t.Helper()
	identity := Identity{Own: privateKey(s.IdentityPrivate), Pin: s.Pin}
	handshake, err := withSecrets(identity, s.EphemeralPrivate, s.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	return handshake
}

func TestHandshakes(t *testing.T) {
	type test struct {
		vectors.Test
		Role       string
		Secrets    secrets
		Hello, Ack vectors.Hex
		Derived    struct{ SessionKey vectors.Hex }
	}
	for _, v := range vectors.Load[test](t, "handshake") {
		t.Run(v.ID, func(t *testing.T) {
			handshake := v.Secrets.handshake(t)
			var err error
			var key []byte
			if v.Role == "rank 0" {
				key, err = handshake.Finish(v.Ack)
			} else {
				_, key, err = handshake.Accept(v.Hello)
			}
			check(t, v.Test, err)
			if !bytes.Equal(key, v.Derived.SessionKey) {
				t.Errorf("session key %x, want %x", key, v.Derived.SessionKey)
			}
		})
	}
}

func privateKey(scalar []byte) *ecdsa.PrivateKey {
	key := &ecdsa.PrivateKey{D: new(big.Int).SetBytes(scalar)}
	key.Curve = elliptic.P256()
	key.X, key.Y = key.Curve.ScalarBaseMult(scalar)
	return key
}

func TestBoxes(t *testing.T) {
	type test struct {
		vectors.Test
		Key   vectors.Hex
		Steps []struct {
			Do                    string
			Box, Nonce, Plaintext vectors.Hex
			Error                 *vectors.Fault
		}
	}
	for _, v := range vectors.Load[test](t, "seal") {
		t.Run(v.ID, func(t *testing.T) {
			random := new(bytes.Buffer)
			sealer, err := NewSealer(v.Key, random)
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range v.Steps {
				var got, want []byte
				if step.Do == "seal" {
					random.Write(step.Nonce)
					got, err = sealer.Seal(step.Plaintext)
					want = step.Box
				} else {
					got, err = sealer.Open(step.Box)
					want = step.Plaintext
				}
				check(t, vectors.Test{Error: step.Error}, err)
				if !bytes.Equal(got, want) {
					t.Errorf("%s gives %x, want %x", step.Do, got, want)
				}
			}
		})
	}
}
