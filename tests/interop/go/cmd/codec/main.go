// Command codec decodes cluster frames: a line of hex in, a line of JSON out.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"os"
	"strings"

	"wirepeer/wire"
)

type success struct {
	OK bool `json:"ok"`
	wire.Message
}

type failure struct {
	OK     bool   `json:"ok"`
	Error  string `json:"error"`
	Offset int    `json:"offset"`
}

func main() {
	log.SetFlags(0)
	revision := flag.Int("revision", 2, "revision of the protocol")
	flag.Parse()
	dialect := wire.Dialect{Revision: *revision}
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if err := out.Encode(answer(dialect, strings.TrimRight(line, "\r\n"))); err != nil {
			log.Fatal(err)
		}
	}
}

func answer(dialect wire.Dialect, line string) any {
	frame, err := hex.DecodeString(line)
	if err != nil {
		return failure{Error: "not-hex"}
	}
	message, err := dialect.Decode(frame)
	if err == nil {
		return success{true, message}
	}
	var fault *wire.Error
	if !errors.As(err, &fault) {
		log.Fatal(err)
	}
	return failure{Error: fault.Code, Offset: fault.Offset}
}
