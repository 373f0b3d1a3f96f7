package sa

import (
	"slices"
	"time"
)

// Later is a task that waits for its time, not only for the request window.
type Later struct {
	At   time.Time
	Task Task
}

// maxLater bounds the tasks that wait: one for each child is plenty.
const maxLater = 64

func (c *coder) later(l *Later) { instant(c, &l.At); c.task(&l.Task) }

// later puts a task off. The same task waits once.
func (m *Machine) later(t Task, pause time.Duration) {
	if m.hasLater(t) || len(m.s.Later) >= maxLater {
		return
	}
	m.s.Later = append(m.s.Later, Later{m.env.Now.Add(pause), t})
	m.persist = true
}

func (m *Machine) hasLater(t Task) bool {
	return slices.ContainsFunc(m.s.Later, func(l Later) bool { return l.Task == t })
}

// laterDeadline is when the first task is due; zero: never.
func (m *Machine) laterDeadline() (d time.Time) {
	if m.s.Phase != Established {
		return d
	}
	for _, l := range m.s.Later {
		if d.IsZero() || l.At.Before(d) {
			d = l.At
		}
	}
	return d
}

// laterDue queues the tasks whose time has come.
func (m *Machine) laterDue(now time.Time) {
	if m.s.Phase != Established || len(m.s.Later) == 0 {
		return
	}
	m.s.Later = slices.DeleteFunc(m.s.Later, func(l Later) bool {
		if now.Before(l.At) {
			return false
		}
		m.s.Tasks, m.persist = append(m.s.Tasks, l.Task), true
		return true
	})
	if len(m.s.Later) == 0 {
		m.s.Later = nil
	}
}
