package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Settings changes settings of the box and gives them back. What each was before
// its first change is in a file before it changes, so that the next run gives back
// what a killed one could not. Its methods are safe for concurrent use.
type Settings struct {
	verbs Verbs
	file  string

	mu      sync.Mutex
	changed map[string]change
}

// change is a setting that differs because of us.
type change struct {
	Before string `json:"before"`
	Set    string `json:"set"` // as it reads since
}

// DefaultSettings is the file's usual place.
const DefaultSettings = "/run/espalier/settings.json"

// settingsVersion is that of the file.
const settingsVersion = 1

type settingsFile struct {
	Version int               `json:"version"`
	Boot    string            `json:"boot"` // a restarted box has forgotten all changes
	Changed map[string]change `json:"changed"`
}

// OpenSettings takes over what a former run left changed: Changed lists it, and
// Restore gives it back. Errors: a file that cannot be read.
func OpenSettings(file string, verbs Verbs) (*Settings, error) {
	s := &Settings{verbs: verbs, file: file, changed: map[string]change{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("settings that a former run changed: %w", err)
	}
	var f settingsFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("settings that a former run changed: %s: %w", file, err)
	}
	if f.Version != settingsVersion {
		return nil, fmt.Errorf("settings that a former run changed: %s: version %d, expected %d", file, f.Version, settingsVersion)
	}
	boot, err := s.boot()
	if err != nil {
		return nil, err
	}
	if f.Boot == boot && f.Changed != nil {
		s.changed = f.Changed
	}
	return s, nil
}

func (s *Settings) boot() (string, error) { return s.verbs.Sysctl("kernel.random.boot_id") }

// Get reads a setting. Errors: fs.ErrNotExist when the box has none of the name,
// fs.ErrPermission when nobody may change it here.
func (s *Settings) Get(name string) (string, error) { return s.verbs.Setting(name) }

// Set changes a setting; setting it to what it was before forgets the change.
func (s *Settings) Set(name, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := s.verbs.Setting(name)
	if err != nil {
		return err
	}
	c, had := s.changed[name]
	if !had || now != c.Set {
		c.Before = now // an administrator's newer value is the one to give back
	}
	if now == value && !had {
		return nil
	}
	if value == c.Before {
		if err := s.verbs.SetSetting(name, value); err != nil {
			return err
		}
		delete(s.changed, name)
		return s.saveLocked()
	}
	was := maps.Clone(s.changed)
	c.Set = value
	s.changed[name] = c
	if err := s.saveLocked(); err != nil {
		s.changed = was
		return fmt.Errorf("remember %s before changing it: %w", name, err)
	}
	if err := s.verbs.SetSetting(name, value); err != nil {
		s.changed = was
		return errors.Join(err, s.saveLocked())
	}
	if reads, err := s.verbs.Setting(name); err == nil && reads != value {
		c.Set = reads // the kernel's way to write it, or the next it can do
		s.changed[name] = c
		return s.saveLocked()
	}
	return nil
}

// Changed are the settings that differ, with the values that Restore gives back.
func (s *Settings) Changed() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]string, len(s.changed))
	for name, c := range s.changed {
		out[name] = c.Before
	}
	return out
}

// Restore gives all settings back, but for those that somebody else has changed
// since, and those of devices that have gone. One that cannot be given back is
// kept for the next call.
func (s *Settings) Restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changed) == 0 {
		return nil
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.changed)) {
		c := s.changed[name]
		now, err := s.verbs.Setting(name)
		if err == nil && now == c.Set {
			err = s.verbs.SetSetting(name, c.Before)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		delete(s.changed, name)
	}
	return errors.Join(append(errs, s.saveLocked())...)
}

// saveLocked writes the file, or removes it when nothing is changed.
func (s *Settings) saveLocked() error {
	if len(s.changed) == 0 {
		if err := os.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	boot, err := s.boot()
	if err != nil {
		return err
	}
	b, err := json.Marshal(settingsFile{settingsVersion, boot, s.changed})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		return err
	}
	next := strings.TrimSuffix(s.file, ".json") + ".new"
	if err := os.WriteFile(next, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, s.file)
}
