package engine

import (
	"espalier/dataplane"
	"espalier/ike/sa"
)

// queryUse asks when SAs were last used; those that are gone are left out.
func queryUse(dp dataplane.DataPlane, keys []dataplane.SAKey) []sa.Use {
	uses := make([]sa.Use, 0, len(keys))
	for _, k := range keys {
		if st, err := dp.QuerySA(k); err == nil {
			uses = append(uses, sa.Use{Key: k, Last: st.LastUsed})
		}
	}
	return uses
}
