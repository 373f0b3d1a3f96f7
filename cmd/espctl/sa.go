package main

import (
	"errors"
	"fmt"

	"espalier/ike/vici"
)

type saCmd struct {
	Show  saShowCmd  `cmd:"" aliases:"list" help:"List IKE SAs and their CHILD SAs."`
	Rekey saRekeyCmd `cmd:"" help:"Replace SAs by new ones now, without losing a packet."`
}

type saRekeyCmd struct {
	Name  string `arg:"" help:"Connection; without a child its IKE SAs are rekeyed."`
	Child string `arg:"" optional:"" help:"Child of the connection whose CHILD SAs are rekeyed."`

	Reauth bool `help:"Set up new IKE SAs, with authentication, in the place of the old ones, and the same children."`
}

// Run begins the rekeying; the log tells how it ends.
func (cmd *saRekeyCmd) Run(e *env) error {
	if cmd.Reauth && cmd.Child != "" {
		return errors.New("--reauth: expected an IKE SA alone, whose children all get new SAs, got a child")
	}
	var req vici.Message
	req.Put("ike", cmd.Name)
	if cmd.Child != "" {
		req.Put("child", cmd.Child)
	}
	state := "rekeying"
	if cmd.Reauth {
		req.Put("reauth", "yes")
		state = "reauthenticating"
	}
	if err := e.control("rekey", req, 0); err != nil {
		return err
	}
	return e.tellConn(connResult{schema, cmd.Name, cmd.Child, state})
}

type saShowCmd struct {
	IKE string `name:"ike" placeholder:"NAME" help:"Only SAs of this connection."`
}

type saResult struct {
	Schema int     `json:"version"`
	SAs    []ikeSA `json:"sas"`
}

// ikeSA is one IKE SA. Times are seconds; a field that is not there has no
// value, such as the age of an SA that is not established.
type ikeSA struct {
	UniqueID     uint64    `json:"unique_id"`
	Name         string    `json:"name"` // connection; "(unnamed)" before one is chosen
	State        string    `json:"state"`
	Initiator    bool      `json:"initiator"` // we are the original initiator
	Local        endpoint  `json:"local"`
	Remote       endpoint  `json:"remote"`
	RemoteEAPID  string    `json:"remote_eap_id,omitempty"`
	InitiatorSPI string    `json:"initiator_spi"` // 16 hexadecimal digits
	ResponderSPI string    `json:"responder_spi"`
	NAT          nat       `json:"nat"`
	PathMTU      *uint64   `json:"path_mtu,omitempty"`
	Proposal     proposal  `json:"proposal"`
	PPK          bool      `json:"ppk"`
	Established  *int64    `json:"established_s,omitempty"`
	Rekey        *int64    `json:"rekey_in_s,omitempty"`
	Reauth       *int64    `json:"reauth_in_s,omitempty"`
	LocalVIPs    []string  `json:"local_vips,omitempty"`
	RemoteVIPs   []string  `json:"remote_vips,omitempty"`
	Children     []childSA `json:"children"`
}

type endpoint struct {
	Host string `json:"host"`
	Port uint64 `json:"port"`
	ID   string `json:"id"`
}

type nat struct {
	Local  bool `json:"local"`  // a NAT before us
	Remote bool `json:"remote"` // a NAT before the peer
	Fake   bool `json:"fake"`   // pretended, for UDP encapsulation
}

type proposal struct {
	Encr      string   `json:"encr,omitempty"`
	EncrBits  uint64   `json:"encr_bits,omitempty"`
	Integ     string   `json:"integ,omitempty"`
	PRF       string   `json:"prf,omitempty"`
	KE        string   `json:"ke,omitempty"`
	FurtherKE []string `json:"further_ke,omitempty"`
	ESN       bool     `json:"esn"`
}

// childSA is one CHILD SA.
type childSA struct {
	UniqueID  uint64   `json:"unique_id"`
	Name      string   `json:"name"`
	ReqID     uint64   `json:"reqid"`
	CPU       *uint64  `json:"cpu,omitempty"` // the one whose packets it carries; not there: those of any
	State     string   `json:"state"`
	Mode      string   `json:"mode"`
	Protocol  string   `json:"protocol,omitempty"`
	Encap     bool     `json:"encap"` // ESP in UDP
	Proposal  proposal `json:"proposal"`
	MarkIn    string   `json:"mark_in,omitempty"` // VALUE/MASK, hexadecimal
	MarkOut   string   `json:"mark_out,omitempty"`
	IfIDIn    string   `json:"if_id_in,omitempty"` // hexadecimal
	IfIDOut   string   `json:"if_id_out,omitempty"`
	In        *traffic `json:"in,omitempty"` // while installed
	Out       *traffic `json:"out,omitempty"`
	Installed *int64   `json:"installed_s,omitempty"`
	Rekey     *int64   `json:"rekey_in_s,omitempty"`
	Expire    *int64   `json:"expire_in_s,omitempty"`
	LocalTS   []string `json:"local_ts"`
	RemoteTS  []string `json:"remote_ts"`
}

type traffic struct {
	SPI     string `json:"spi"` // 8 hexadecimal digits
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	LastUse *int64 `json:"last_use_s,omitempty"` // ago; not there: never
}

// Run lists what the daemon streams.
func (cmd *saShowCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var req vici.Message
	if cmd.IKE != "" {
		req.Put("ike", cmd.IKE)
	}
	res := saResult{Schema: schema, SAs: []ikeSA{}}
	_, err = c.Stream(e.ctx, "list-sas", req, "list-sa", func(m vici.Message) error {
		for _, s := range m.Sections() {
			d := decoder{where: "list-sa " + s.Name}
			sa := d.ikeSA(s.Name, s.Body)
			if d.err != nil {
				return d.err
			}
			res.SAs = append(res.SAs, sa)
		}
		return nil
	})
	if err != nil {
		return e.explain(err)
	}
	if e.format != plain {
		return e.print(res)
	}
	return e.writeSAs(res.SAs, cmd.IKE)
}

// writeSAs prints a block for each IKE SA.
func (e *env) writeSAs(sas []ikeSA, name string) error {
	if len(sas) == 0 {
		what := "no IKE SAs"
		if name != "" {
			what += " of " + printable(name)
		}
		_, err := fmt.Fprintln(e.stdout, what)
		return err
	}
	for i := range sas {
		if i > 0 {
			fmt.Fprintln(e.stdout)
		}
		if _, err := e.stdout.Write(sas[i].text()); err != nil {
			return err
		}
	}
	return nil
}
