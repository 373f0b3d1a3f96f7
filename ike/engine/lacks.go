package engine

import (
	"espalier/dataplane"
	"espalier/ike/sa"
)

// sayLacks tells once a configuration what the children ask for and the kernel
// can't do; their CHILD SAs go without.
func (e *Engine) sayLacks(conns []*sa.Connection) {
	lacks := e.lacks
	for _, c := range conns {
		for _, ch := range c.Children {
			say := func(missing, instead string) {
				e.log.Warn().Str("conn", c.Name).Str("child", ch.Name).Str("missing", missing).Str("instead", instead).
					Msg("the kernel lacks what a child asks for")
			}
			if lacks.IPTFS && ch.Mode == dataplane.IPTFS {
				say("IPTFS (CONFIG_XFRM_IPTFS)", "tunnel mode")
			}
			if lacks.IPComp && ch.IPComp {
				say("IPComp (modules ipcomp, ipcomp6, deflate)", "no compression")
			}
		}
	}
}
