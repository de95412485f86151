package podwork

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/podstate"
	"github.com/rutter-project/rutter/nodeagent/internal/runspec"
)

// The files of a pod that make the next agent continue.
const (
	podFile   = "pod.json"
	stateFile = "state.json"
)

// savedPod is the API object as the node last saw it.
type savedPod struct {
	Rev int64       `json:"rev"`
	Pod *corev1.Pod `json:"pod"`
}

func (w *Worker) savePod() error {
	data, err := json.Marshal(savedPod{w.rev, w.pod})
	if err != nil {
		return fmt.Errorf("encode pod: %w", err)
	}
	return replace(filepath.Join(w.dirs.root, podFile), data)
}

// saveState writes the state if it differs from what is on disk.
func (w *Worker) saveState() error {
	data, err := json.Marshal(w.state)
	if err != nil {
		return fmt.Errorf("encode pod state: %w", err)
	}
	if bytes.Equal(data, w.saved) {
		return nil
	}
	if err := replace(filepath.Join(w.dirs.root, stateFile), data); err != nil {
		return err
	}
	w.saved = data
	return nil
}

// replace writes a file as a whole: it survives the death of the process. It
// is not forced to the disk: with the machine the containers die as well.
func replace(path string, data []byte) error {
	err := os.WriteFile(path+".new", data, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Saved returns the uids of the pods that an earlier agent left.
func Saved(dirs Dirs) ([]string, error) {
	entries, err := os.ReadDir(dirs.Pods)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list saved pods: %w", err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// Load returns the worker of a pod that an earlier agent left.
func Load(deps *Deps, uid string) (*Worker, error) {
	root := filepath.Join(deps.Dirs.Pods, uid)
	var saved savedPod
	if err := read(filepath.Join(root, podFile), &saved); err != nil {
		return nil, err
	}
	if saved.Pod == nil || string(saved.Pod.UID) != uid {
		return nil, fmt.Errorf("saved pod %s is not that pod", uid)
	}
	w := newWorker(deps, saved.Pod, saved.Rev)
	var state podstate.Pod
	if err := read(filepath.Join(root, stateFile), &state); err != nil || len(state.Containers) != len(w.spec.Containers) {
		// The agent died before the first step was saved: nothing was begun.
		w.state = podstate.New(uid, w.spec, time.Now())
	} else {
		w.state = state
		for i := range state.Containers {
			if w.spec.Containers[i].Name != state.Containers[i].Name {
				return nil, fmt.Errorf("saved state of pod %s is of another pod", uid)
			}
		}
	}
	w.adopted = true
	w.publish()
	return w, nil
}

func read(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read saved pod: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// erase removes the last traces of a pod.
func (w *Worker) erase() {
	w.deps.Objects.Forget(w.pod.UID)
	for _, dir := range []string{w.dirs.root, w.dirs.run, w.dirs.logs} {
		if err := os.RemoveAll(dir); err != nil {
			w.log.Warn().Err(err).Msg("directory of a removed pod stays")
		}
	}
	w.log.Info().Msg("pod removed")
}

// admit checks what can be known without trying.
func (w *Worker) admit() (reason string, err error) {
	if err := runspec.CheckSysctls(w.pod); err != nil {
		return "SysctlForbidden", err
	}
	return "", nil
}

// cgroup is the path of a container's cgroup, empty name for the pod's.
func (w *Worker) cgroup(container string, attempt int) string {
	pod := filepath.Join(w.deps.Cgroup, "pod"+w.uid)
	if container == "" {
		return pod
	}
	return filepath.Join(pod, container+"-"+strconv.Itoa(attempt))
}

// SavedLogs lists the log directories of the pods that an earlier agent left.
func SavedLogs(dirs Dirs) ([]string, error) {
	uids, err := Saved(dirs)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, uid := range uids {
		var saved savedPod
		if err := read(filepath.Join(dirs.Pods, uid, podFile), &saved); err != nil || saved.Pod == nil {
			continue
		}
		out = append(out, dirs.of(saved.Pod).logs)
	}
	return out, nil
}
