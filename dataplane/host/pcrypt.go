package host

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What linux/cryptouser.h has.
const (
	cryptoNewAlg    = 0x10
	cryptoDelAlg    = 0x11
	cryptoUpdateAlg = 0x12
	cryptoPriority  = 1 // CRYPTOCFGA_PRIORITY_VAL
	cryptoName      = 64
	cryptoUserAlg   = 3*cryptoName + 16 // struct crypto_user_alg
	cryptoTypeAEAD  = 3
	cryptoTypeMask  = 0xf
)

const pcryptPrefix = "pcrypt("

// pcrypt is "on" when new SAs get the cipher that spreads its work over CPUs.
func (l Local) pcrypt() (string, error) {
	all := l.kernel().modules
	for _, m := range []string{"pcrypt", "crypto_user"} {
		s := l.moduleState(m, all)
		if s == ModuleAbsent || s == ModuleUnknown && !l.builtIn(m) {
			return "", fmt.Errorf("the kernel has no module %s: %w", m, fs.ErrNotExist)
		}
	}
	c := l.ciphers()
	return onOff[len(c) > 0 && strings.HasPrefix(c[0].Driver, pcryptPrefix)], nil
}

// builtIn tells whether a kernel that came without lists of its modules has one of
// pcrypt's two, by what they do when they begin.
func (l Local) builtIn(module string) bool {
	if module == "pcrypt" {
		return l.exists("/sys/kernel/pcrypt")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_CRYPTO)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// setPcrypt has new SAs take the cipher that spreads its work, or not. SAs keep what
// they have: while one has it, the cipher stays, as one that nobody chooses.
func (l Local) setPcrypt(value string) error {
	now, err := l.pcrypt()
	if err != nil {
		return err
	}
	switch {
	case value != "on" && value != "off":
		return errors.New("expected on or off")
	case value == now:
		return nil
	}
	best := l.ciphers()
	if len(best) == 0 {
		return errors.New("the kernel has not chosen a cipher yet: it does with the first SA")
	}
	if l.moduleState("crypto_user", l.kernel().modules) == ModuleLoadable {
		if err := l.LoadModule("crypto_user"); err != nil {
			return err
		}
	}
	if value == "off" {
		return endPcrypt(best[0].Driver)
	}
	// By the driver's name: the kernel looks for what it has made by that.
	spread := pcryptPrefix + best[0].Driver + ")"
	if err = cryptoRequest(cryptoNewAlg, spread, 0); errors.Is(err, unix.EEXIST) {
		err = cryptoRequest(cryptoUpdateAlg, spread, best[0].Priority+1) // an SA has it since before it went off
	}
	return err
}

// endPcrypt takes the cipher from those that new SAs may get, and away if no SA has it.
func endPcrypt(driver string) error {
	if err := cryptoRequest(cryptoUpdateAlg, driver, 1); err != nil {
		return err
	}
	if err := cryptoRequest(cryptoDelAlg, driver, 0); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

// cryptoRequest asks the kernel to add, change or remove a cipher by its driver's name;
// priority is that of its choice, 0: not told.
func cryptoRequest(kind int, driver string, priority int) error {
	if len(driver) >= cryptoName {
		return fmt.Errorf("cipher %s: expected a name of at most %d octets", driver, cryptoName-1)
	}
	b := make([]byte, cryptoUserAlg)
	copy(b[cryptoName:], driver)
	native.PutUint32(b[3*cryptoName:], cryptoTypeAEAD)
	native.PutUint32(b[3*cryptoName+4:], cryptoTypeMask)
	if priority > 0 {
		b = append(b, nl.NewRtAttr(cryptoPriority, native.AppendUint32(nil, uint32(priority))).Serialize()...)
	}
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	req.AddRawData(b)
	if _, err := req.Execute(unix.NETLINK_CRYPTO, 0); err != nil {
		return fmt.Errorf("cipher %s: %w", driver, err)
	}
	return nil
}
