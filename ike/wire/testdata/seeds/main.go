// Command seeds turns what capture.sh recorded into the fuzz seeds and charon.txt beside it:
//
//	go run ./ike/wire/testdata/seeds RECORDED ike/wire/testdata
//
// For each datagram on the wire it writes a seed of FuzzParseMessage, for each chain of payloads that was inside an
// SK payload (or several SKF) one of FuzzParsePayloads, taken from node a's log; charon.txt says for each what charon
// itself read in it.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: seeds RECORDED TESTDATA")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "seeds:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	captures, err := filepath.Glob(filepath.Join(in, "*.pcap"))
	if err != nil || len(captures) == 0 {
		return fmt.Errorf("no *.pcap in %s (%v)", in, err)
	}
	var index strings.Builder
	for _, c := range captures {
		name := strings.TrimSuffix(filepath.Base(c), ".pcap")
		datagrams, err := readPcap(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		log, err := readLog(filepath.Join(in, name+".a.log"))
		if err != nil {
			return err
		}
		if err := emit(out, name, datagrams, log, &index); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return os.WriteFile(filepath.Join(out, "charon.txt"), []byte(index.String()), 0o644)
}

// charonLog is what one daemon says of the messages it sent and received, in order.
type charonLog struct {
	messages []string // "IKE_AUTH request 1 [ IDi AUTH ]", those of single fragments left out
	plain    [][]byte // the insides of SK and SKF payloads, without padding
}

var (
	messageLine = regexp.MustCompile(`\[ENC\] (?:generating|parsed) (\S+ (?:request|response) \d+ \[.*\])$`)
	plainLine   = regexp.MustCompile(`\[ENC\] plain => (\d+) bytes`)
	hexLine     = regexp.MustCompile(`\[ENC\] +\d+: ((?:[0-9A-F]{2} )+)`)
)

func readLog(path string) (*charonLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var l charonLog
	sc := bufio.NewScanner(f)
	left := 0 // octets that the current dump still owes
	for sc.Scan() {
		line := sc.Text()
		if m := messageLine.FindStringSubmatch(line); m != nil && !strings.Contains(m[1], "[ EF(") {
			l.messages = append(l.messages, m[1])
		}
		if m := plainLine.FindStringSubmatch(line); m != nil {
			fmt.Sscan(m[1], &left)
			l.plain = append(l.plain, []byte{})
			continue
		}
		if m := hexLine.FindStringSubmatch(line); m != nil && left > 0 {
			b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
			if err != nil || len(b) > left {
				return nil, fmt.Errorf("%s: bad dump line %q", path, line)
			}
			last := len(l.plain) - 1
			l.plain[last] = append(l.plain[last], b...)
			left -= len(b)
		}
	}
	return &l, sc.Err()
}

// readPcap returns the IKE messages of a capture of Ethernet frames with IPv4, without non-ESP markers.
func readPcap(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for b = b[24:]; len(b) >= 16; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		frame := b[16 : 16+n]
		b = b[16+n:]
		ip := frame[14:]
		udp := ip[int(ip[0]&15)*4:]
		data := udp[8:binary.BigEndian.Uint16(udp[4:])]
		if binary.BigEndian.Uint16(udp) == 4500 || binary.BigEndian.Uint16(udp[2:]) == 4500 {
			if len(data) < 4 || binary.BigEndian.Uint32(data) != 0 {
				continue // ESP or a NAT keepalive
			}
			data = data[4:]
		}
		out = append(out, data)
	}
	return out, nil
}

// emit writes one scenario's seeds and index lines. Datagrams and log tell the same messages in the same order.
func emit(out, name string, datagrams [][]byte, log *charonLog, index *strings.Builder) error {
	var chain []byte
	var first byte
	messages, plain := log.messages, log.plain
	for i, d := range datagrams {
		seed := fmt.Sprintf("%s-%02d", name, i+1)
		if err := write(out, "FuzzParseMessage", seed, fmt.Sprintf("[]byte(%q)\n", d)); err != nil {
			return err
		}
		last, sealed := true, d[16] == 46 || d[16] == 53
		if sealed {
			if len(plain) == 0 {
				return fmt.Errorf("no plaintext in the log for datagram %d", i+1)
			}
			part := plain[0]
			plain = plain[1:]
			if d[16] == 46 || binary.BigEndian.Uint16(d[32:]) == 1 {
				first, chain = d[28], nil
			}
			chain = append(chain, part...)
			last = d[16] == 46 || binary.BigEndian.Uint16(d[32:]) == binary.BigEndian.Uint16(d[34:])
			if over := len(d) - 32 - len(part); over < 17 || over > 64 {
				return fmt.Errorf("datagram %d: its plaintext of %d octets is not that of the log, %d", i+1, len(d)-32, len(part))
			}
		}
		if !last {
			continue
		}
		if len(messages) == 0 {
			return fmt.Errorf("no line in the log for datagram %d", i+1)
		}
		target := "FuzzParseMessage"
		if sealed {
			target = "FuzzParsePayloads"
			if err := write(out, target, seed, fmt.Sprintf("byte(%q)\n[]byte(%q)\n", rune(first), chain)); err != nil {
				return err
			}
		}
		fmt.Fprintf(index, "%s/%s %s\n", target, seed, messages[0])
		messages = messages[1:]
	}
	return nil
}

func write(out, target, seed, args string) error {
	dir := filepath.Join(out, "fuzz", target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, seed), []byte("go test fuzz v1\n"+args), 0o644)
}
