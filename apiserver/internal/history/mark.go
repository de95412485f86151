package history

import (
	"context"
	"fmt"
	"path"

	"github.com/rutter-project/rutter/schemas"
)

// marked is the revision that a mark stands for. One that is not known is looked for once
// more when everything that etcd has is known: who has just set it may use it.
func (h *History) marked(ctx context.Context, name string) (int64, error) {
	if value, ok := h.mark(name); ok {
		return revisionOf(value)
	}
	newest, err := h.parts.Revision(ctx)
	if err == nil {
		err = h.parts.Feed.WaitFor(ctx, newest)
	}
	if err != nil {
		return 0, err
	}
	value, ok := h.mark(name)
	if !ok {
		return 0, &Error{Kind: Invalid, Reason: "no mark has this name; and it is none of: " + Forms}
	}
	return revisionOf(value)
}

// mark reads the marks of now. A ConfigMap that can't be read has none.
func (h *History) mark(name string) (string, bool) {
	key := schemas.Marks.Path()
	item, ok := h.parts.View.Table(path.Dir(path.Dir(key))).Get(key)
	if !ok {
		return "", false
	}
	marks, err := schemas.MarksOf(item.Object)
	if err != nil {
		return "", false
	}
	value, ok := marks[name]
	return value, ok
}

func revisionOf(value string) (int64, error) {
	rev, err := schemas.ParseMark(value)
	if err != nil {
		return 0, &Error{Kind: Invalid, Reason: fmt.Sprintf("the mark of this name stands for %v", err)}
	}
	return rev, nil
}
