package wire

import (
	"bytes"
	"encoding/base64"
	"math"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// field is one member of a JSON payload.
type field struct {
	key      string
	read     func(*scanner) error
	optional bool
}

// payload reads the JSON payload of a frame: one object, its fields, and nothing after it but white space.
func (s *scanner) payload(fields []field) error {
	if bytes.HasPrefix(s.text[s.at:], []byte("\xEF\xBB\xBF")) {
		return fault("json-bom", s.at)
	}
	c, err := s.next()
	switch {
	case err != nil:
		return err
	case kind(c) == 0:
		return fault("json-syntax", s.at)
	case c != '{':
		return fault("payload-not-object", s.at)
	}
	found := make([]bool, len(fields))
	err = s.object(func(key []byte) error {
		for i, field := range fields {
			if field.key == string(key) {
				found[i] = true
				return field.read(s)
			}
		}
		return s.skip()
	})
	if err != nil {
		return err
	}
	for i, field := range fields {
		if !found[i] && !field.optional {
			return fault("field-missing", s.at-1)
		}
	}
	if _, err := s.next(); err == nil {
		return fault("trailing-data", s.at)
	}
	return nil
}

func boolean(to *bool) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('t'); err != nil {
			return err
		}
		*to = s.text[s.at] == 't'
		return s.word()
	}
}

func integer(to *int64, least, most int64) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('0'); err != nil {
			return err
		}
		start := s.at
		isInteger, err := s.number()
		if err != nil {
			return err
		}
		if !isInteger {
			return fault("field-not-integer", start)
		}
		*to, err = strconv.ParseInt(string(s.text[start:s.at]), 10, 64)
		if err != nil || *to < least || *to > most {
			return fault("field-range", start)
		}
		return nil
	}
}

func int64s(to *int64) func(*scanner) error {
	return integer(to, math.MinInt64, math.MaxInt64)
}

// text reads a string of at most limit characters that pattern matches; nil matches all.
func text(to *string, limit int, pattern *regexp.Regexp) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('"'); err != nil {
			return err
		}
		start := s.at
		value, err := s.str()
		if err != nil {
			return err
		}
		if utf8.RuneCount(value) > limit {
			return fault("field-length", start)
		}
		if pattern != nil && !pattern.Match(value) {
			return fault("field-pattern", start)
		}
		*to = string(value)
		return nil
	}
}

func anyText(to *string) func(*scanner) error {
	return text(to, math.MaxInt, nil)
}

func oneOf(to *string, values ...string) func(*scanner) error {
	return func(s *scanner) error {
		_, err := s.next()
		start := s.at
		if err == nil {
			err = anyText(to)(s)
		}
		if err != nil {
			return err
		}
		for _, value := range values {
			if *to == value {
				return nil
			}
		}
		return fault("field-enum", start)
	}
}

// octets reads base64 of size bytes, of any number if size is negative.
func octets(to *[]byte, size int) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('"'); err != nil {
			return err
		}
		start := s.at
		value, err := s.str()
		if err != nil {
			return err
		}
		if bytes.ContainsAny(value, "\r\n") { // which encoding/base64 skips
			return fault("field-base64", start)
		}
		decoded := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
		n, err := base64.StdEncoding.Strict().Decode(decoded, value)
		if err != nil {
			return fault("field-base64", start)
		}
		if size >= 0 && n != size {
			return fault("field-length", start)
		}
		*to = decoded[:n]
		return nil
	}
}

func integers(to *[]int64) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('['); err != nil {
			return err
		}
		*to = []int64{}
		return s.array(func(int) error {
			var value int64
			err := int64s(&value)(s)
			*to = append(*to, value)
			return err
		})
	}
}

const maxNames = 32

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}$`)

// names reads the names of extensions.
func names(to *[]string) func(*scanner) error {
	return func(s *scanner) error {
		if err := s.start('['); err != nil {
			return err
		}
		bracket := s.at
		return s.array(func(i int) error {
			if i == maxNames {
				return fault("field-length", bracket)
			}
			start := s.at
			var name string
			if err := text(&name, 64, namePattern)(s); err != nil {
				return err
			}
			for _, other := range *to {
				if other == name {
					return fault("field-duplicate", start)
				}
			}
			*to = append(*to, name)
			return nil
		})
	}
}
