package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// MaxLinkLength is the limit of a link frame's body.
const MaxLinkLength = 256 << 20

// Rank is a side of a session.
type Rank int

// Rank 0 connects, each other rank listens.
const (
	Rank0 Rank = iota
	Rank1
	bothRanks // as the sender of a type
)

type payload interface{ fields() []field }

const (
	shortLimit = 64 << 10
	partLimit  = 1 << 20
	maxParts   = 8
)

type layout struct {
	name      string
	sender    Rank
	revision  int            // the first that has the type
	limit     int            // of the whole frame
	extension string         // the one that the type belongs to
	payload   func() payload // nil for a payload that is not JSON
}

func introduction() payload { return new(Introduction) }
func stop() payload         { return new(Stop) }

var layouts = map[Type]layout{
	HandshakeHello:   {"handshakeHello", Rank0, 1, 4 << 10, "", introduction},
	HandshakeAck:     {"handshakeAck", Rank1, 1, 4 << 10, "", introduction},
	Ping:             {"ping", Rank0, 1, MaxLinkLength, "", nil},
	Pong:             {"pong", Rank1, 1, shortLimit, "", func() payload { return new(Health) }},
	InferenceStep:    {"inferenceStep", Rank0, 1, MaxLinkLength, "", nil},
	InferenceToken:   {"inferenceToken", Rank1, 1, MaxLinkLength, "", nil},
	JacclBootstrap:   {"jacclBootstrap", Rank0, 1, shortLimit, "", func() payload { return new(Bootstrap) }},
	PromptTokens:     {"promptTokens", Rank0, 2, MaxLinkLength, "", func() payload { return new(Prompt) }},
	StepToken:        {"stepToken", Rank0, 2, shortLimit, "", func() payload { return new(Step) }},
	SessionStop:      {"sessionStop", Rank0, 2, shortLimit, "", stop},
	PPActivation:     {"ppActivation", Rank0, 2, MaxLinkLength, "", func() payload { return new(Activation) }},
	PPToken:          {"ppToken", Rank1, 2, shortLimit, "", func() payload { return new(Token) }},
	PPSessionEnd:     {"ppSessionEnd", Rank0, 2, shortLimit, "", stop},
	SideChannelPart:  {"sideChannelPart", Rank1, 2, 1 + sequenceSize + partLimit, SideChannel1, nil},
	SideChannelWhole: {"sideChannelWhole", Rank0, 2, 1 + sequenceSize + maxParts*partLimit, SideChannel1, nil},
	Outcome:          {"outcome", bothRanks, 2, shortLimit, Outcome1, func() payload { return new(Report) }},
	Versions:         {"versions", bothRanks, 2, shortLimit, Outcome1, func() payload { return new(Software) }},
	SessionEnd:       {"sessionEnd", Rank0, 1, MaxLinkLength, "", nil},
}

func (t Type) String() string {
	if layout, known := layouts[t]; known {
		return layout.name
	}
	return fmt.Sprintf("type 0x%02X", byte(t))
}

// SentBy tells whether the protocol has a rank send this type.
func (t Type) SentBy(rank Rank) bool {
	sender := layouts[t].sender
	return sender == rank || sender == bothRanks
}

// Dialect is the set of types that may come: those of a revision and of the extensions agreed on.
type Dialect struct {
	Revision   int
	Extensions []string
}

func (d Dialect) has(l layout) bool {
	if d.Revision < l.revision {
		return false
	}
	for _, name := range d.Extensions {
		if name == l.extension {
			return true
		}
	}
	return l.extension == ""
}

// Decode decodes a cluster frame. Opaque payloads share its memory.
func (d Dialect) Decode(frame []byte) (Message, error) {
	if len(frame) == 0 {
		return Message{}, fault("truncated", 0)
	}
	kind := Type(frame[0])
	layout, known := layouts[kind]
	if !known || !d.has(layout) {
		return Message{}, fault("type-unknown", 0)
	}
	if len(frame) > layout.limit {
		return Message{}, fault("payload-limit", 1)
	}
	message := Message{Type: kind}
	var err error
	switch kind {
	case Ping, SessionEnd:
		if len(frame) > 1 {
			err = fault("payload-not-empty", 1)
		}
	case InferenceStep, InferenceToken:
		message.Payload = frame[1:]
	case SideChannelPart:
		var part Part
		part.Sequence, part.Part, err = sequenced(frame)
		message.Payload = &part
	case SideChannelWhole:
		var whole Whole
		whole.Sequence, whole.Whole, err = sequenced(frame)
		message.Payload = &whole
	default:
		payload := layout.payload()
		message.Payload = payload
		err = (&scanner{text: frame, at: 1}).payload(payload.fields())
	}
	if err != nil {
		return Message{}, err
	}
	return message, nil
}

// Encode encodes a message as a cluster frame.
func Encode(m Message) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte(byte(m.Type))
	var err error
	switch payload := m.Payload.(type) {
	case nil:
	case []byte:
		out.Write(payload)
	case *Part:
		err = binary.Write(&out, binary.LittleEndian, payload.Sequence)
		out.Write(payload.Part)
	case *Whole:
		err = binary.Write(&out, binary.LittleEndian, payload.Sequence)
		out.Write(payload.Whole)
	default:
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(payload) // with a line feed, which is white space
	}
	return out.Bytes(), err
}
