// Package vici is strongSwan's control protocol: a codec for its messages, the
// server over the engine, and a client. swanctl and other programs written for
// charon speak it.
//
// A stream carries segments; a segment is one packet: a command request with
// its response, an event registration with its confirmation, or an event. A
// packet carries a message, an ordered tree of sections, lists and values. A
// connection has one command in flight, and events may come at any time.
package vici
