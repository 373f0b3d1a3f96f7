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
	cryptoNewAlg   = 0x10
	cryptoDelAlg   = 0x11
	cryptoName     = 64
	cryptoUserAlg  = 3*cryptoName + 16 // struct crypto_user_alg
	cryptoTypeAEAD = 3
	cryptoTypeMask = 0xf
)

const pcryptPrefix = "pcrypt("

// pcrypt is "on" when new SAs get the cipher that spreads its work over CPUs.
func (l Local) pcrypt() (string, error) {
	all := l.kernel().modules
	for _, m := range []string{"pcrypt", "crypto_user"} {
		if s := l.moduleState(m, all); s == ModuleAbsent || s == ModuleUnknown {
			return "", fmt.Errorf("the kernel has no module %s: %w", m, fs.ErrNotExist)
		}
	}
	c := l.ciphers()
	return onOff[len(c) > 0 && strings.HasPrefix(c[0].Driver, pcryptPrefix)], nil
}

// setPcrypt makes the cipher, or takes it away, which fails while an SA has it.
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
	case value == "on":
		if err := l.LoadModule("crypto_user"); err != nil {
			return err
		}
		c := l.ciphers()
		if len(c) == 0 {
			return errors.New("the kernel has not chosen a cipher yet: it does with the first SA")
		}
		// By the driver's name: the kernel looks for what it has made by that.
		return cryptoRequest(cryptoNewAlg, pcryptPrefix+c[0].Driver+")")
	}
	err = cryptoRequest(cryptoDelAlg, l.ciphers()[0].Driver)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("SAs still have it, until they are rekeyed and deleted: %w", err)
	}
	return err
}

// cryptoRequest asks the kernel to add or remove a cipher by its driver's name.
func cryptoRequest(kind int, driver string) error {
	if len(driver) >= cryptoName {
		return fmt.Errorf("cipher %s: expected a name of at most %d octets", driver, cryptoName-1)
	}
	b := make([]byte, cryptoUserAlg)
	copy(b[cryptoName:], driver)
	native.PutUint32(b[3*cryptoName:], cryptoTypeAEAD)
	native.PutUint32(b[3*cryptoName+4:], cryptoTypeMask)
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	req.AddRawData(b)
	if _, err := req.Execute(unix.NETLINK_CRYPTO, 0); err != nil {
		return fmt.Errorf("cipher %s: %w", driver, err)
	}
	return nil
}
