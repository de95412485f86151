package lane

import "encoding/binary"

// The parts of RFC 9113 that are looked at here.
const (
	headLen = 9

	kindData         = 0x0
	kindHeaders      = 0x1
	kindReset        = 0x3
	kindSettings     = 0x4
	kindWindowUpdate = 0x8
	kindContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	settingLen           = 6
	settingInitialWindow = 0x4

	preface       = 24 // bytes before a client's first frame
	resetLen      = 4
	updateLen     = 4
	firstWindow   = 1<<16 - 1
	largestWindow = 1<<31 - 1
	// dataMost is what every receiver takes as the length of a frame.
	dataMost = 1 << 14
)

// head is the head of a frame.
type head struct {
	length      int
	kind, flags byte
	stream      uint32
}

func parseHead(b *[headLen]byte) head {
	return head{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3], flags: b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & largestWindow,
	}
}

func (h head) has(flag byte) bool { return h.flags&flag != 0 }

func (h head) append(b []byte) []byte {
	b = append(b, byte(h.length>>16), byte(h.length>>8), byte(h.length), h.kind, h.flags)
	return binary.BigEndian.AppendUint32(b, h.stream)
}

func appendUpdate(b []byte, stream uint32, n int64) []byte {
	b = head{length: updateLen, kind: kindWindowUpdate, stream: stream}.append(b)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}
