package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/rutter-project/rutter/schemas"
)

// maxAnswer is how much of a collector's answer is read.
const maxAnswer = 64 << 10

// errRefused says that the collector will not take a batch, however often it is asked.
var errRefused = errors.New("collector refuses")

// deliver sends one batch until the collector has taken it.
func (b *Bridge) deliver(ctx context.Context, events []schemas.Event) error {
	body, err := proto.Marshal(request(events))
	if err != nil {
		return fmt.Errorf("encode %d records: %w", len(events), err)
	}
	backoff := b.cfg.MinBackoff
	for {
		after, err := b.post(ctx, body)
		if err == nil || errors.Is(err, errRefused) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause := max(after, backoff/2+rand.N(backoff))
		b.log.Warn().Err(err).Dur("backoff", pause).Int("records", len(events)).Msg("collector not reached, trying again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		backoff = min(2*backoff, b.cfg.MaxBackoff)
	}
}

// post sends one request. It returns how long the collector wants to be left alone.
func (b *Bridge) post(ctx context.Context, body []byte) (after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.cfg.Endpoint+"/v1/logs", bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	for name, value := range b.cfg.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "rutter-otlp")
	resp, err := b.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		b.noteRejected(answer)
		return 0, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return min(time.Duration(max(seconds, 0))*time.Second, b.cfg.MaxBackoff), fmt.Errorf("collector answers %s", resp.Status)
	default:
		return 0, fmt.Errorf("%w: %s: %.200q", errRefused, resp.Status, answer)
	}
}

// noteRejected tells when the collector took the batch but not all records. The protocol
// forbids to send them again.
func (b *Bridge) noteRejected(answer []byte) {
	var resp collector.ExportLogsServiceResponse
	if err := proto.Unmarshal(answer, &resp); err != nil {
		return // a collector that says OK and no more
	}
	if partial := resp.GetPartialSuccess(); partial.GetRejectedLogRecords() > 0 {
		b.log.Error().Int64("records", partial.GetRejectedLogRecords()).Str("reason", partial.GetErrorMessage()).Msg("collector rejected records")
	}
}
