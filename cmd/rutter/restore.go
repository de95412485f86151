package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/delta"
	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/schemas"
)

// restorer puts objects back.
type restorer struct {
	restoreFlags
	server *remote.Server // of the cluster that is written to
	source *remote.Server // of the past
	// stranger says that the source's revisions are not the cluster's.
	stranger bool
	// hidden is what the source does not show of an object, if anything.
	hidden func(key schemas.Key, object []byte) bool
	at     remote.Instant
	me     string // the caller's name
	errs   io.Writer
	uids   map[schemas.Key]string // of objects that are there, or were made
}

// wanted is an object that is to be put back.
type wanted struct {
	remote.Resource
	schemas.Key
	old, live json.RawMessage
	// result is what a dry run made of it, conflicts the fields that others have set since.
	result    json.RawMessage
	conflicts []string
}

// target names an object.
type target struct {
	remote.Resource
	schemas.Key
}

// gather reads the objects as they were and as they are, owners before what they own. It
// says which are left alone, and why.
func (r *restorer) gather(ctx context.Context, named []target) ([]*wanted, error) {
	if r.owned {
		var err error
		if named, err = r.withOwned(ctx, named); err != nil {
			return nil, err
		}
	}
	var out []*wanted
	for _, t := range named {
		old, err := r.source.Object(ctx, r.at.Text(), t.Resource, t.Key)
		if err != nil {
			return nil, fmt.Errorf("%s at %s: %w", objectName(t.Key), r.at.Text(), err)
		}
		live, err := r.server.Object(ctx, "", t.Resource, t.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", objectName(t.Key), err)
		}
		maker, made := past.MadeBy(old)
		switch {
		case len(old) == 0:
			fmt.Fprintf(r.errs, "Left alone: %s was not there at %s.\n", objectName(t.Key), r.at.Text())
			continue
		case r.hidden != nil && r.hidden(t.Key, old):
			fmt.Fprintf(r.errs, "Left alone: values of %s are hidden in the bundle.\n", objectName(t.Key))
			continue
		case made && !r.owned:
			fmt.Fprintf(r.errs, "Left to its controller: %s is made by %s/%s.\n", objectName(t.Key), maker.Kind, maker.Name)
			continue
		case past.Ending(old), past.Ending(live):
			fmt.Fprintf(r.errs, "Left alone: %s is being deleted.\n", objectName(t.Key))
			continue
		}
		if len(live) > 0 {
			r.uids[t.Key] = past.UID(live)
		}
		out = append(out, &wanted{Resource: t.Resource, Key: t.Key, old: old, live: live})
	}
	return out, nil
}

// withOwned adds what objects owned at the instant, level by level.
func (r *restorer) withOwned(ctx context.Context, named []target) ([]target, error) {
	resources, err := r.source.Listable(r.at.Text())
	if err != nil {
		return nil, err
	}
	byKey := map[schemas.Key]remote.Resource{}
	all := map[schemas.Key]json.RawMessage{}
	namespaces := map[string]bool{}
	for _, t := range named {
		namespaces[t.Namespace] = true
	}
	for namespace := range namespaces {
		for _, res := range resources {
			if restless[res.Resource] || (namespace != "" && !res.Namespaced) {
				continue
			}
			found, err := r.source.List(ctx, r.at.Text(), res, namespace)
			if err != nil {
				return nil, fmt.Errorf("%s at %s: %w", res.Resource, r.at.Text(), err)
			}
			for key := range found {
				byKey[key] = res
			}
			maps.Copy(all, found)
		}
	}
	keys := slices.SortedFunc(maps.Keys(all), func(a, b schemas.Key) int { return cmp.Compare(a.String(), b.String()) })
	out := slices.Clone(named)
	for i := 0; i < len(out); i++ {
		uid := past.UID(all[out[i].Key])
		for _, key := range keys {
			owns := uid != "" && slices.ContainsFunc(past.Owners(all[key]), func(o past.Reference) bool { return o.UID == uid })
			if owns && !slices.ContainsFunc(out, func(t target) bool { return t.Key == key }) {
				out = append(out, target{byKey[key], key})
			}
		}
	}
	return out, nil
}

// request is what asks for an object to be put back.
func (r *restorer) request(w *wanted) (remote.Application, error) {
	object, err := past.Restored(w.Key, w.old, w.live, func(ref past.Reference) (string, bool) {
		key, ok := r.server.Owner(ref.APIVersion, ref.Kind, w.Namespace, ref.Name)
		return r.uids[key], ok && r.uids[key] != ""
	})
	a := remote.Application{Resource: w.Resource, Key: w.Key, Object: object, Manager: restoreManager}
	if err == nil && r.exact && len(w.live) > 0 {
		a.Replace = true
		a.Object, err = past.Exact(w.Key, object, w.live)
	}
	return a, err
}

// try asks what would become of the objects.
func (r *restorer) try(ctx context.Context, all []*wanted) error {
	for _, w := range all {
		if err := r.lookUpOwners(ctx, w); err != nil {
			return err
		}
		a, err := r.request(w)
		if err != nil {
			return err
		}
		a.DryRun = true
		if w.result, err = r.server.Apply(ctx, a); err != nil {
			return fmt.Errorf("%s: %w", objectName(w.Key), err)
		}
		if w.conflicts, err = r.conflicts(ctx, w); err != nil {
			return err
		}
		if len(w.live) == 0 {
			r.uids[w.Key] = past.UID(w.result) // of a dry run: good for what is owned
		}
	}
	return nil
}

// conflicts are the fields that would change and that others have set since the instant.
func (r *restorer) conflicts(ctx context.Context, w *wanted) ([]string, error) {
	if len(w.live) == 0 {
		return nil, nil
	}
	changes, err := delta.Of(w.live, w.result)
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	touches, err := r.touches(ctx, w.Key)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range changes {
		by := touches.By(c.Path)
		switch {
		case by.Rev == 0:
			out = append(out, c.Path+", by whom is not known")
		case by.Lost():
			out = append(out, fmt.Sprintf("%s, by whom is lost (changes after revision %d)", c.Path, by.PrevRev))
		case by.Header.User != r.me:
			out = append(out, fmt.Sprintf("%s, by %s at rev-%d", c.Path, cmp.Or(actor(by), "somebody unknown"), by.Rev))
		}
	}
	return out, nil
}

// touches are the changes of an object since the instant.
func (r *restorer) touches(ctx context.Context, key schemas.Key) (past.Touches, error) {
	if r.stranger {
		return past.Touches{}, nil
	}
	events, err := r.server.Since(ctx, key, r.at.Rev)
	if err != nil {
		return past.Touches{}, fmt.Errorf("changes of %s since %s: %w", objectName(key), r.at.Text(), err)
	}
	var before schemas.Event
	if len(events) > 0 && events[0].Type != schemas.Gap {
		if before, err = r.server.Before(ctx, events[0]); err != nil {
			return past.Touches{}, err
		}
	}
	return past.TouchesOf(before.Object, events), nil
}

// lookUpOwners finds the owners that are there and are not restored themselves.
func (r *restorer) lookUpOwners(ctx context.Context, w *wanted) error {
	for _, ref := range past.Owners(w.old) {
		key, ok := r.server.Owner(ref.APIVersion, ref.Kind, w.Namespace, ref.Name)
		if _, known := r.uids[key]; !ok || known {
			continue
		}
		resource, err := r.server.Find(key.Resource + "." + key.Group)
		if err != nil {
			return err
		}
		owner, err := r.server.Object(ctx, "", resource, key)
		if err != nil {
			return fmt.Errorf("%s, an owner of %s: %w", objectName(key), objectName(w.Key), err)
		}
		r.uids[key] = past.UID(owner)
	}
	return nil
}

// finish prints what changes, and changes it if that was asked for.
func (r *restorer) finish(cmd *cobra.Command, all []*wanted) error {
	before, after, then := objects{}, objects{}, objects{}
	conflicts := 0
	for _, w := range all {
		if len(w.live) > 0 {
			before[w.Key] = w.live
		}
		after[w.Key], then[w.Key] = w.result, w.old
		if len(w.conflicts) > 0 {
			conflicts++
		}
	}
	changed, err := differences(before, after)
	if err != nil {
		return err
	}
	r.tellConflicts(all)
	if err := r.tellStaying(after, then); err != nil {
		return err
	}
	if len(changed) == 0 {
		fmt.Fprintf(r.errs, "Nothing differs from %s.\n", r.at.Text())
		return writeNothing(cmd.OutOrStdout(), r.output)
	}
	if r.write && conflicts > 0 && !r.force {
		return fmt.Errorf("%s changed by others since %s; nothing was written; --force-conflicts overrides them", count(conflicts, "object"), r.at.Text())
	}
	if err := writeDifferences(cmd.OutOrStdout(), r.output, changed); err != nil {
		return err
	}
	if !r.write {
		hint := "--apply"
		if conflicts > 0 {
			hint += " --force-conflicts"
		}
		fmt.Fprintf(r.errs, "Nothing was written; %s does it.\n", hint)
		return errFound
	}
	return r.apply(cmd.Context(), all)
}

// tellConflicts says whose fields would be taken over.
func (r *restorer) tellConflicts(all []*wanted) {
	for _, w := range all {
		if len(w.conflicts) > 0 {
			fmt.Fprintf(r.errs, "Conflict: others have changed %s since\n    %s\n", objectName(w.Key), strings.Join(w.conflicts, "\n    "))
		}
	}
}

// tellStaying says which fields will not be as they were: those that were added since.
func (r *restorer) tellStaying(after, then objects) error {
	left, err := differences(then, after)
	if err != nil {
		return err
	}
	hint := " (--exact removes it)"
	if r.exact {
		hint = ""
	}
	for _, d := range left {
		var lines []string
		for _, c := range d.Changes {
			if c.Kind == delta.Added && stays(c.Path) {
				lines = append(lines, c.Path)
			}
		}
		if len(lines) > 0 {
			fmt.Fprintf(r.errs, "Added since to %s, and stays: %s%s\n", objectName(d.Key), strings.Join(lines, ", "), hint)
		}
	}
	return nil
}

// stays tells fields that somebody has added from those that restore leaves alone.
func stays(path string) bool {
	for _, own := range []string{"status", "metadata.ownerReferences", "metadata.annotations[\"deployment.kubernetes.io/"} {
		if strings.HasPrefix(path, own) {
			return false
		}
	}
	return true
}

// apply writes what was tried.
func (r *restorer) apply(ctx context.Context, all []*wanted) error {
	for _, w := range all {
		if len(w.live) == 0 {
			delete(r.uids, w.Key) // that of the dry run
		}
	}
	for n, w := range all {
		a, err := r.request(w)
		if err != nil {
			return err
		}
		result, err := r.server.Apply(ctx, a)
		if err != nil {
			return fmt.Errorf("%s: %w; %s before it restored", objectName(w.Key), err, count(n, "object"))
		}
		r.uids[w.Key] = past.UID(result)
	}
	fmt.Fprintf(r.errs, "Restored %s.\n", count(len(all), "object"))
	return nil
}
