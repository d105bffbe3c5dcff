package wire

// Type is the first byte of a cluster frame.
type Type byte

// The types of cluster frames.
const (
	HandshakeHello   Type = 0x01
	HandshakeAck     Type = 0x02
	Ping             Type = 0x03
	Pong             Type = 0x04
	InferenceStep    Type = 0x05
	InferenceToken   Type = 0x06
	JacclBootstrap   Type = 0x07
	PromptTokens     Type = 0x08
	StepToken        Type = 0x09
	SessionStop      Type = 0x0A
	PPActivation     Type = 0x0B
	PPToken          Type = 0x0C
	PPSessionEnd     Type = 0x0D
	SideChannelPart  Type = 0x40
	SideChannelWhole Type = 0x41
	Outcome          Type = 0x42
	Versions         Type = 0x43
	SessionEnd       Type = 0xFF
)

// Message is a cluster frame. Its payload is nil if empty, a []byte if opaque, else a pointer to one of the structs below.
type Message struct {
	Type    Type `json:"type"`
	Payload any  `json:"payload"`
}

// Introduction is the payload of a hello and of an ack.
type Introduction struct {
	Identity  []byte `json:"sePubKeyRaw"`
	Ephemeral []byte `json:"ephemeralX25519PubKey"`
	Nonce     []byte `json:"nonce"`
	Signature []byte `json:"seSignature"`
}

func (p *Introduction) fields() []field {
	return []field{
		{key: "sePubKeyRaw", read: octets(&p.Identity, 64)},
		{key: "ephemeralX25519PubKey", read: octets(&p.Ephemeral, 32)},
		{key: "nonce", read: octets(&p.Nonce, 32)},
		{key: "seSignature", read: octets(&p.Signature, -1)},
	}
}

// Health is the payload of a pong.
type Health struct {
	ModelLoaded       bool     `json:"modelLoaded"`
	InferenceInFlight bool     `json:"inferenceInFlight"`
	MemoryPressure    string   `json:"memoryPressure"`
	Extensions        []string `json:"extensions,omitempty"`
}

func (p *Health) fields() []field {
	return []field{
		{key: "modelLoaded", read: boolean(&p.ModelLoaded)},
		{key: "inferenceInFlight", read: boolean(&p.InferenceInFlight)},
		{key: "memoryPressure", read: oneOf(&p.MemoryPressure, "normal", "warning", "critical")},
		{key: "extensions", read: names(&p.Extensions), optional: true},
	}
}

// Bootstrap is the payload of a jacclBootstrap.
type Bootstrap struct {
	Port       int64    `json:"port"`
	SessionID  string   `json:"sessionID"`
	Extensions []string `json:"extensions,omitempty"`
}

func (p *Bootstrap) fields() []field {
	return []field{
		{key: "port", read: integer(&p.Port, 0, 65535)},
		{key: "sessionID", read: anyText(&p.SessionID)},
		{key: "extensions", read: names(&p.Extensions), optional: true},
	}
}

// Prompt is the payload of promptTokens.
type Prompt struct {
	UID       string  `json:"uid"`
	Tokens    []int64 `json:"tokens"`
	MaxTokens int64   `json:"maxTokens"`
}

func (p *Prompt) fields() []field {
	return []field{
		{key: "uid", read: anyText(&p.UID)},
		{key: "tokens", read: integers(&p.Tokens)},
		{key: "maxTokens", read: int64s(&p.MaxTokens)},
	}
}

// Step is the payload of a stepToken.
type Step struct {
	UID   string `json:"uid"`
	Token int64  `json:"token"`
}

func (p *Step) fields() []field {
	return []field{{key: "uid", read: anyText(&p.UID)}, {key: "token", read: int64s(&p.Token)}}
}

// Stop is the payload of a sessionStop and of a ppSessionEnd.
type Stop struct {
	UID string `json:"uid"`
}

func (p *Stop) fields() []field {
	return []field{{key: "uid", read: anyText(&p.UID)}}
}

// Activation is the payload of a ppActivation.
type Activation struct {
	UID    string `json:"uid"`
	SeqLen int64  `json:"seqLen"`
	Box    []byte `json:"sealedActivation"`
}

func (p *Activation) fields() []field {
	return []field{
		{key: "uid", read: anyText(&p.UID)},
		{key: "seqLen", read: int64s(&p.SeqLen)},
		{key: "sealedActivation", read: octets(&p.Box, -1)},
	}
}

// Token is the payload of a ppToken.
type Token struct {
	UID string `json:"uid"`
	Box []byte `json:"sealedToken"`
}

func (p *Token) fields() []field {
	return []field{{key: "uid", read: anyText(&p.UID)}, {key: "sealedToken", read: octets(&p.Box, -1)}}
}
