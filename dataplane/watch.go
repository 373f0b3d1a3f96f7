package dataplane

// SAWatcher is what a DataPlane has that can tell of every SA, whoever installs
// it.
type SAWatcher interface {
	// WatchSAs is the stream of what is installed and removed from now on. A slow
	// reader loses changes, never blocks the data plane, and gets an SAChange with
	// Lost. It ends with the data plane, or when stop is called.
	WatchSAs() (changes <-chan SAChange, stop func(), err error)

	// HasSA reports whether there is an SA or a reserved SPI with the key.
	HasSA(SAKey) (bool, error)
}

// SAChange is a change of what is installed.
type SAChange struct {
	// SA is what was installed or changed; when Gone, what is there no more: its
	// key alone counts then. SPIs that other programs reserve are not told.
	SA   InstalledSA
	Gone bool
	// Lost: changes were lost, or came in bulk, and List has the truth. SA is empty.
	Lost bool
}
