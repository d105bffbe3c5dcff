package wire

import "unicode/utf8"

const maxDepth = 512

// scanner reads JSON as strictly as the specification requires, in one pass. Offsets count from the start of text, which
// is the whole cluster frame.
type scanner struct {
	text  []byte
	at    int
	depth int
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r'
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9'
}

// kind returns the type of the value that starts with c, and 0 if none does.
func kind(c byte) byte {
	switch {
	case c == '"' || c == '{' || c == '[' || c == 'n':
		return c
	case c == 't' || c == 'f':
		return 't'
	case c == '-' || isDigit(c):
		return '0'
	}
	return 0
}

// byte returns the byte at the current position.
func (s *scanner) byte() (byte, error) {
	if s.at == len(s.text) {
		return 0, fault("truncated", s.at)
	}
	return s.text[s.at], nil
}

// next skips white space and returns the byte after it.
func (s *scanner) next() (byte, error) {
	for s.at < len(s.text) && isSpace(s.text[s.at]) {
		s.at++
	}
	return s.byte()
}

// start checks that a value of the given kind comes next.
func (s *scanner) start(want byte) error {
	c, err := s.next()
	switch {
	case err != nil:
		return err
	case kind(c) == 0:
		return fault("json-syntax", s.at)
	case kind(c) != want:
		return fault("field-type", s.at)
	}
	return nil
}

func (s *scanner) enter() error {
	if s.depth == maxDepth {
		return fault("json-nesting", s.at)
	}
	s.depth++
	s.at++
	return nil
}

// more reads what follows an element: true for a comma, false for the closing bracket.
func (s *scanner) more(closing byte) (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	if c != ',' && c != closing {
		return false, fault("json-syntax", s.at)
	}
	s.at++
	return c == ',', nil
}

// object reads an object, whose brace comes next. It calls value for each member's value.
func (s *scanner) object(value func(key []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	c, err := s.next()
	if err != nil {
		return err
	}
	if c == '}' {
		s.at++
		s.depth--
		return nil
	}
	seen := map[string]struct{}{}
	for more := true; more; {
		if err := s.member(seen, value); err != nil {
			return err
		}
		if more, err = s.more('}'); err != nil {
			return err
		}
	}
	s.depth--
	return nil
}

func (s *scanner) member(seen map[string]struct{}, value func(key []byte) error) error {
	c, err := s.next()
	if err != nil {
		return err
	}
	if c != '"' {
		return fault("json-syntax", s.at)
	}
	quote := s.at
	key, err := s.str()
	if err != nil {
		return err
	}
	if _, twice := seen[string(key)]; twice {
		return fault("json-duplicate-key", quote)
	}
	seen[string(key)] = struct{}{}
	if c, err = s.next(); err != nil {
		return err
	}
	if c != ':' {
		return fault("json-syntax", s.at)
	}
	s.at++
	return value(key)
}

// array reads an array, whose bracket comes next. It calls element at each element, with its number.
func (s *scanner) array(element func(i int) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	c, err := s.next()
	if err != nil {
		return err
	}
	if c == ']' {
		s.at++
		s.depth--
		return nil
	}
	more := true
	for i := 0; more; i++ {
		if c, err = s.next(); err != nil {
			return err
		}
		if kind(c) == 0 {
			return fault("json-syntax", s.at)
		}
		if err := element(i); err != nil {
			return err
		}
		if more, err = s.more(']'); err != nil {
			return err
		}
	}
	s.depth--
	return nil
}

// skip reads a value of any kind.
func (s *scanner) skip() error {
	c, err := s.next()
	if err != nil {
		return err
	}
	switch kind(c) {
	case '"':
		_, err = s.str()
	case '{':
		err = s.object(func([]byte) error { return s.skip() })
	case '[':
		err = s.array(func(int) error { return s.skip() })
	case 't', 'n':
		err = s.word()
	case '0':
		_, err = s.number()
	default:
		err = fault("json-syntax", s.at)
	}
	return err
}

var words = map[byte]string{'t': "true", 'f': "false", 'n': "null"}

// word reads true, false or null, of which the first letter is already known to be there.
func (s *scanner) word() error {
	word := words[s.text[s.at]]
	for i := range word {
		c, err := s.byte()
		if err != nil {
			return err
		}
		if c != word[i] {
			return fault("json-syntax", s.at)
		}
		s.at++
	}
	return nil
}

// number reads a number up to the byte that ends it, and tells whether it is written as an integer.
func (s *scanner) number() (integer bool, err error) {
	if s.text[s.at] == '-' {
		s.at++
	}
	c, err := s.byte()
	if err != nil {
		return false, err
	}
	if c == '0' {
		s.at++
	} else if err := s.digits(); err != nil {
		return false, err
	}
	integer = true
	if c, err = s.byte(); err == nil && c == '.' {
		integer = false
		s.at++
		if err := s.digits(); err != nil {
			return false, err
		}
		c, err = s.byte()
	}
	if err == nil && (c == 'e' || c == 'E') {
		integer = false
		s.at++
		if c, err = s.byte(); err == nil && (c == '+' || c == '-') {
			s.at++
		}
		if err := s.digits(); err != nil {
			return false, err
		}
		_, err = s.byte()
	}
	return integer, err
}

// digits reads at least one digit.
func (s *scanner) digits() error {
	c, err := s.byte()
	if err != nil {
		return err
	}
	if !isDigit(c) {
		return fault("json-syntax", s.at)
	}
	for s.at < len(s.text) && isDigit(s.text[s.at]) {
		s.at++
	}
	return nil
}

// str reads a string, whose quote comes next, and returns it unescaped: a part of the text if it has no escapes.
func (s *scanner) str() ([]byte, error) {
	s.at++
	start := s.at
	var copied []byte // everything before start
	for {
		c, err := s.byte()
		if err != nil {
			return nil, err
		}
		switch {
		case c == '"':
			part := s.text[start:s.at]
			s.at++
			if copied == nil {
				return part, nil
			}
			return append(copied, part...), nil
		case c == '\\':
			copied = append(copied, s.text[start:s.at]...)
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			copied = utf8.AppendRune(copied, r)
			start = s.at
		case c < ' ':
			return nil, fault("json-control-character", s.at)
		case c < utf8.RuneSelf:
			s.at++
		default:
			if !utf8.FullRune(s.text[s.at:]) {
				return nil, fault("truncated", len(s.text))
			}
			r, size := utf8.DecodeRune(s.text[s.at:])
			if r == utf8.RuneError && size == 1 {
				return nil, fault("json-utf8", s.at)
			}
			s.at += size
		}
	}
}
