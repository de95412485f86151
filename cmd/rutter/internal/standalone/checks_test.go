package standalone

import (
	"strings"
	"testing"
)

func TestKernelNewEnough(t *testing.T) {
	for release, want := range map[string]string{
		"6.6.0":           "",
		"6.18.44-fc-v669": "",
		"7.0-rc1":         "",
		"6.1.0-13-amd64":  "too old",
		"5.15.0":          "too old",
		"6.5-rc3":         "too old",
		"weird":           "not understood",
	} {
		err := kernelNewEnough(release)
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("kernelNewEnough(%q) = %v, want %q", release, err, want)
		}
	}
}
