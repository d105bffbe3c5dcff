package wire

import "unicode/utf16"

var escapes = map[byte]rune{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// escape reads an escape, whose backslash comes next, and both escapes of a surrogate pair.
func (s *scanner) escape() (rune, error) {
	start := s.at
	s.at++
	c, err := s.byte()
	if err != nil {
		return 0, err
	}
	if c != 'u' {
		r, known := escapes[c]
		if !known {
			return 0, fault("json-escape", start)
		}
		s.at++
		return r, nil
	}
	s.at++
	r, err := s.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if r >= 0xDC00 {
		return 0, fault("json-surrogate", start)
	}
	for _, want := range []byte(`\u`) {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		if c != want {
			return 0, fault("json-surrogate", start)
		}
		s.at++
	}
	low, err := s.hex()
	if err != nil {
		return 0, err
	}
	if low < 0xDC00 || low > 0xDFFF {
		return 0, fault("json-surrogate", start)
	}
	return utf16.DecodeRune(r, low), nil
}

// hex reads four hex digits.
func (s *scanner) hex() (rune, error) {
	var r rune
	for i := 0; i < 4; i++ {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, fault("json-escape", s.at)
		}
		s.at++
	}
	return r, nil
}
