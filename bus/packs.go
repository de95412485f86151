package bus

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// StreamPacks holds what ARCHIVE holds once more, some hundred events to a message: a
// reader of all of it gets them for a tenth of what single messages cost. It may lack any
// part of ARCHIVE, which is then read there.
const StreamPacks = "PACKS"

const (
	packSubject = "pack.archive"
	// Headers of a pack: the sequences of ARCHIVE from which and up to which, that one
	// excluded, it has every event.
	packFrom = "Rutter-From"
	packTo   = "Rutter-To"
	// packTotal is how many events were packed since PACKS began, those of this pack
	// included: a witness of what ARCHIVE has lost that costs two reads.
	packTotal = "Rutter-Total"
	// packEvents and packBytes, before compression, are what makes a pack full. Packs are
	// small enough to be read between two live changes.
	packEvents = 128
	packBytes  = 256 << 10
)

// pack is one message of PACKS.
type pack struct {
	seq      uint64 // in PACKS
	from, to uint64 // in ARCHIVE
	total    uint64 // 0 if it is not told
	body     []byte
}

func packsConfig(cfg StreamsConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: StreamPacks, Description: "the past, many changes to a message", Subjects: []string{packSubject},
		Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
		MaxAge: cfg.ArchiveAge, MaxBytes: cfg.PackBytes, Discard: jetstream.DiscardOld, AllowDirect: true,
	}
}

// mendedConfig keeps what is mended at least for as long as ARCHIVE would have.
func mendedConfig(cfg StreamsConfig) jetstream.StreamConfig {
	mended := packsConfig(cfg)
	mended.Name, mended.Description, mended.Subjects = StreamMended, "what the archive has lost and others still had", []string{mendedSubject}
	mended.MaxBytes = max(cfg.PackBytes/mendedShare, 1)
	return mended
}

// PackArchive packs what ARCHIVE has got since the last time, but for an end that fills no
// pack, and drops packs of what ARCHIVE no longer holds. Any number of callers may do this
// at once: all but one give way.
func (c *Client) PackArchive(ctx context.Context) error {
	head, err := c.Head(ctx, StreamArchive)
	if err != nil || head.Empty {
		return err
	}
	packs, err := c.openPacks(ctx)
	if err != nil {
		return err
	}
	if err := packs.retire(ctx, head.First); err != nil {
		return err
	}
	end, err := packs.end(ctx)
	if err != nil {
		return err
	}
	err = c.packFrom(ctx, packs, max(end, head.First))
	if errors.Is(err, ErrFenced) {
		return nil
	}
	return err
}

// packFrom packs ARCHIVE from a sequence on. No pack reaches across what is lost.
func (c *Client) packFrom(ctx context.Context, packs *packs, from uint64) error {
	w := newPackWriter()
	pace := pacer{traffic: c.traffic}
	flush := func() error {
		if w.events == 0 {
			return nil
		}
		full, events := pack{from: from, to: w.before.Seq + 1, body: w.encode()}, w.events
		from, w = full.to, newPackWriter()
		return packs.append(ctx, full, events)
	}
	across := false
	return c.scanArchive(ctx, scan{stream: StreamArchive, filters: []string{schemas.AllObjects}, from: from}, func(e schemas.Event) error {
		if e.Lost() {
			across = true
			return flush()
		}
		if across {
			from, across = e.Seq, false
		}
		w.add(&e)
		if w.events >= packEvents || w.size() >= packBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		return pace.step(ctx)
	})
}

// packs is PACKS, or another stream of packs, as it was when it was opened.
type packs struct {
	c           *Client
	stream      jetstream.Stream
	subject     string
	first, last uint64 // sequences in PACKS; first is behind last if there are none
	total       uint64 // of events, set by end
}

func (c *Client) openPacks(ctx context.Context) (*packs, error) {
	return c.openPackStream(ctx, StreamPacks, packSubject)
}

func (c *Client) openPackStream(ctx context.Context, name, subject string) (*packs, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("bus: stream %s: %w", name, explain(err))
	}
	state := stream.CachedInfo().State
	p := &packs{c: c, stream: stream, subject: subject, first: state.FirstSeq, last: state.LastSeq}
	if state.Msgs == 0 {
		p.first = p.last + 1
	}
	return p, nil
}

// append adds a pack of some events. ErrFenced if somebody else has. One that the bus can't
// carry is left out.
func (p *packs) append(ctx context.Context, new pack, events int) error {
	p.total += uint64(events)
	from, to, body := new.from, new.to, new.body
	if int64(len(body)) > p.c.nc.MaxPayload()-headerRoom {
		return nil
	}
	msg := &nats.Msg{Subject: p.subject, Data: body, Header: nats.Header{
		packFrom: {strconv.FormatUint(from, 10)}, packTo: {strconv.FormatUint(to, 10)}, packTotal: {strconv.FormatUint(p.total, 10)},
	}}
	ack, err := p.c.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(p.stream.CachedInfo().Config.Name), jetstream.WithExpectLastSequence(p.last))
	if err != nil {
		return fmt.Errorf("bus: pack: %w", explain(err))
	}
	p.last = ack.Sequence
	return nil
}

// get reads a pack. ErrNotFound if it is gone, or none.
func (p *packs) get(ctx context.Context, seq uint64) (pack, error) { return p.read(ctx, seq) }

// next reads the first pack that is there from a place on: retention takes the first ones,
// and others may be lost.
func (p *packs) next(ctx context.Context, seq uint64) (pack, error) {
	return p.read(ctx, seq, jetstream.WithGetMsgSubject(p.subject))
}

func (p *packs) read(ctx context.Context, seq uint64, which ...jetstream.GetMsgOpt) (pack, error) {
	msg, err := p.stream.GetMsg(ctx, seq, which...)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return pack{}, fmt.Errorf("bus: pack %d: %w", seq, ErrNotFound)
	}
	if err != nil {
		return pack{}, fmt.Errorf("bus: pack %d: %w", seq, explain(err))
	}
	found := pack{seq: msg.Sequence, body: msg.Data}
	var errs [2]error
	found.from, errs[0] = strconv.ParseUint(msg.Header.Get(packFrom), 10, 64)
	found.to, errs[1] = strconv.ParseUint(msg.Header.Get(packTo), 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return pack{}, fmt.Errorf("bus: pack %d: %w: %w", seq, errPack, err)
	}
	found.total, _ = strconv.ParseUint(msg.Header.Get(packTotal), 10, 64) // older ones have none
	if found.from >= found.to {
		return pack{}, fmt.Errorf("bus: pack %d: %w: it is of %d to %d", seq, errPack, found.from, found.to)
	}
	return found, nil
}

// end is the sequence of ARCHIVE where the packs end, 0 if there are none. What is appended
// from then on is counted on from there.
func (p *packs) end(ctx context.Context) (uint64, error) {
	if p.first > p.last {
		return 0, nil
	}
	newest, err := p.get(ctx, p.last)
	p.total = newest.total
	return newest.to, err
}

// packEnds finds out between which events a stream of packs lies. A pack that can't be read, as its
// readers find out too, leaves its end without a revision.
func (c *Client) packEnds(ctx context.Context, stream string, first, last *End) error {
	packs, err := c.openPackStream(ctx, stream, "")
	if err != nil {
		return err
	}
	for _, end := range []*End{first, last} {
		held, err := packs.get(ctx, end.Seq)
		if errors.Is(err, ErrNotFound) || errors.Is(err, errPack) {
			continue
		}
		if err != nil {
			return err
		}
		r, err := openPack(held.body, nil)
		if err != nil {
			continue
		}
		for r.more() {
			e, _, err := r.next(func(schemas.EventType, schemas.Key) bool { return true })
			if err != nil {
				break
			}
			end.Rev, end.At = e.Rev, e.Recorded
			if end == first {
				break
			}
		}
	}
	return nil
}

// find is where in PACKS the packs begin that have something at or behind a sequence of
// ARCHIVE. Most look for what is held first, so that one is looked at first.
func (p *packs) find(ctx context.Context, seq uint64) (uint64, error) {
	var failed error
	ends := func(at uint64) bool {
		if failed != nil {
			return true
		}
		found, err := p.next(ctx, at)
		if errors.Is(err, ErrNotFound) {
			return true // there are none from there on
		}
		failed = err
		return found.to > seq
	}
	if p.first > p.last || ends(p.first) {
		return p.first, failed
	}
	n := sort.Search(int(p.last-p.first), func(i int) bool { return ends(p.first + 1 + uint64(i)) })
	return p.first + 1 + uint64(n), failed
}

// retire drops the packs of what lies before a sequence of ARCHIVE.
func (p *packs) retire(ctx context.Context, first uint64) error {
	keep, err := p.find(ctx, first)
	if err != nil || keep == p.first {
		return err
	}
	if err := p.stream.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return fmt.Errorf("bus: purge %s: %w", StreamPacks, explain(err))
	}
	p.first = keep
	return nil
}

// each calls fn for the packs from a place in PACKS on. The next one is read while fn works
// on one. Failures of the bus are of type *scanError.
func (p *packs) each(ctx context.Context, seq uint64, fn func(pack) error) error {
	type fetched struct {
		pack
		err error
	}
	reading, cancel := context.WithCancel(ctx)
	ready := make(chan fetched)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		defer close(ready)
		for ; seq <= p.last; seq++ {
			found, err := p.get(reading, seq)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			select {
			case ready <- fetched{found, err}:
			case <-reading.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	for next := range ready {
		if next.err != nil {
			return &scanError{next.err}
		}
		if err := fn(next.pack); err != nil {
			return err
		}
	}
	return ctx.Err()
}
