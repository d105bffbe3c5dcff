// Command peer is one side of the cluster link protocol, written from spec/protocol.md alone.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"wirepeer/session"
	"wirepeer/wire"
)

const usage = "usage: peer listen|connect --identity FILE --peer-key BASE64 [--revision 1|2] [--plain] [--address HOST:PORT] [--port N]"

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("peer: ", err)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("peer", flag.ExitOnError)
	identity := flags.String("identity", "", "`file` of this side's P-256 key, PKCS#8 in PEM")
	peerKey := flags.String("peer-key", "", "public key of the peer, X ‖ Y in `base64`")
	revision := flags.Int("revision", 2, "revision of the protocol, 1 or 2")
	address := flags.String("address", defaultAddress(), "`host:port` to listen on or connect to")
	plain := flags.Bool("plain", false, "have no extensions")
	port := flags.Int64("port", 29400, "coordinator port, for rank 0")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *revision != 1 && *revision != 2 {
		return errors.New("--revision must be 1 or 2")
	}
	keys, err := loadIdentity(*identity, *peerKey)
	if err != nil {
		return err
	}
	config := session.Config{Revision: *revision, Identity: keys}
	if !*plain {
		config.Extensions = []string{wire.Outcome1}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case "listen":
		config.Role = wire.Rank1
		return listen(ctx, *address, config)
	case "connect":
		config.Role = wire.Rank0
		return connect(ctx, *address, *port, config)
	}
	return errors.New(usage)
}

func defaultAddress() string {
	host, port := os.Getenv("CONFORM_HOST"), os.Getenv("CONFORM_PORT")
	if host == "" || port == "" {
		return "127.0.0.1:7777"
	}
	return net.JoinHostPort(host, port)
}

func loadIdentity(file, peer string) (session.Identity, error) {
	own, err := loadKey(file)
	if err != nil {
		return session.Identity{}, err
	}
	pin, err := base64.StdEncoding.Strict().DecodeString(peer)
	switch {
	case err != nil || len(pin) != 64:
		return session.Identity{}, errors.New("--peer-key must be base64 of 64 bytes")
	case bytes.Equal(pin, session.PublicKey(own)):
		return session.Identity{}, errors.New("--peer-key is this side's own key")
	}
	return session.Identity{Own: own, Pin: pin}, nil
}

func loadKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is not a P-256 key", file)
	}
	return key, nil
}
