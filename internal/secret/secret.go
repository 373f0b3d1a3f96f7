// Package secret holds key material so that it cannot be printed by accident.
package secret

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// hidden is what every formatter shows in place of the bytes.
const hidden = "(hidden)"

// Bytes is key material: a pre-shared key, a private key, a session key. Every
// formatter, encoder and logger prints "(hidden)"; only code that asks for the
// bytes by conversion or indexing sees them.
type Bytes []byte

// String implements fmt.Stringer.
func (Bytes) String() string { return hidden }

// Format implements fmt.Formatter for every verb, so that %x and %v cannot leak.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue implements slog.LogValuer.
func (Bytes) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler (and with it JSON map keys).
func (Bytes) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON implements json.Marshaler: key material never travels as JSON.
func (Bytes) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// UnmarshalJSON refuses: what MarshalJSON hid cannot come back.
func (Bytes) UnmarshalJSON([]byte) error {
	return errors.New("secret: key material is never read from JSON")
}

// Wipe overwrites the bytes with zeros. It is best effort: the runtime may have
// copied them before.
func (b Bytes) Wipe() { clear(b) }

// Equal compares in constant time for equal lengths.
func (b Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(b, o) == 1 }

// Clone returns a copy that can be wiped on its own; nil stays nil.
func (b Bytes) Clone() Bytes {
	if b == nil {
		return nil
	}
	return append(make(Bytes, 0, len(b)), b...)
}
