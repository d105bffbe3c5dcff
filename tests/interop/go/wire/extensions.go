package wire

import (
	"encoding/binary"
	"regexp"
)

// The extensions that this package knows.
const (
	SideChannel1 = "side-channel/1"
	Outcome1     = "outcome/1"
)

// Part is the payload of a sideChannelPart.
type Part struct {
	Sequence uint32 `json:"sequence"`
	Part     []byte `json:"part"`
}

// Whole is the payload of a sideChannelWhole.
type Whole struct {
	Sequence uint32 `json:"sequence"`
	Whole    []byte `json:"whole"`
}

const sequenceSize = 4

// sequenced splits the payload of a frame of side-channel/1.
func sequenced(frame []byte) (uint32, []byte, error) {
	if len(frame) < 1+sequenceSize {
		return 0, nil, fault("truncated", len(frame))
	}
	return binary.LittleEndian.Uint32(frame[1:]), frame[1+sequenceSize:], nil
}

// Report is the payload of an outcome.
type Report struct {
	Rank    int64  `json:"rank"`
	State   string `json:"state"`
	Stage   string `json:"stage"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

const maxText = 1024

func (p *Report) fields() []field {
	return []field{
		{key: "rank", read: integer(&p.Rank, 0, 65535)},
		{key: "state", read: oneOf(&p.State, "started", "ready", "failed", "finished")},
		{key: "stage", read: text(&p.Stage, maxText, nil)},
		{key: "code", read: text(&p.Code, maxText, nil)},
		{key: "message", read: text(&p.Message, maxText, nil)},
	}
}

// Software is the payload of versions.
type Software struct {
	Package string `json:"package"`
	MLX     string `json:"mlx"`
	Backend string `json:"backend"`
	Devices string `json:"devices"`
	Program string `json:"program,omitempty"`
}

var devicesPattern = regexp.MustCompile(`^([0-9a-f]{64})?$`)

func (p *Software) fields() []field {
	return []field{
		{key: "package", read: text(&p.Package, maxText, nil)},
		{key: "mlx", read: text(&p.MLX, maxText, nil)},
		{key: "backend", read: text(&p.Backend, maxText, nil)},
		{key: "devices", read: text(&p.Devices, maxText, devicesPattern)},
		{key: "program", read: oneOf(&p.Program, "hold", "module", "command", "dry-run"), optional: true},
	}
}
