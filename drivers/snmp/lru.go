package snmp

import (
	"container/list"
	"sync"
)

// lru keeps the values that were used last. It is safe for many goroutines.
type lru[K comparable, V any] struct {
	most int

	mu    sync.Mutex
	order *list.List // of *entry[K, V], the freshest first; guarded by mu
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](most int) *lru[K, V] {
	return &lru[K, V]{most: most, order: list.New(), items: make(map[K]*list.Element)}
}

// update replaces the value of key (at first the zero value) by what change
// makes of it, and returns that. change must be short: the lock is held.
func (l *lru[K, V]) update(key K, change func(V) V) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	element, ok := l.items[key]
	if !ok {
		element = l.order.PushFront(&entry[K, V]{key: key})
		l.items[key] = element
	}
	l.order.MoveToFront(element)
	e := element.Value.(*entry[K, V])
	e.value = change(e.value)
	if l.order.Len() > l.most {
		oldest := l.order.Remove(l.order.Back()).(*entry[K, V])
		delete(l.items, oldest.key)
	}
	return e.value
}

// get returns the value of key, or the zero value.
func (l *lru[K, V]) get(key K) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none V
	element, ok := l.items[key]
	if !ok {
		return none
	}
	l.order.MoveToFront(element)
	return element.Value.(*entry[K, V]).value
}
