package nbd

import (
	"encoding/binary"
	"slices"
	"strings"
)

// list answers LIST.
func (h *handshake) list(data []byte) error {
	if len(data) > 0 {
		return h.refuse(optList, repErrInvalid, "the option takes no data")
	}
	entries, err := h.c.srv.backend.List(h.c.ctx, h.c)
	if err != nil {
		return h.refuseFor(optList, err)
	}
	if len(entries) > maxListed {
		return h.refuse(optList, repErrTooBig, "there are too many exports to list")
	}
	var b []byte
	for _, e := range entries {
		b = appendReply(b, optList, repServer, append(appendString(nil, e.Name), e.Description...))
		if len(b) > maxOptionData {
			if err := h.write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return h.write(appendReply(b, optList, repAck, nil))
}

// queries decodes the data of LIST_META_CONTEXT and SET_META_CONTEXT. A text
// without namespace makes it malformed.
func queries(data []byte) (name string, list []string, ok bool) {
	c := cursor{b: data}
	name = c.str()
	for range c.u32() {
		q := c.str()
		if c.bad || !validName(q) || !strings.Contains(q, ":") {
			return "", nil, false
		}
		list = append(list, q)
	}
	return name, list, !c.bad && len(c.b) == 0 && validName(name)
}

func (h *handshake) listContexts(data []byte) error {
	name, qs, ok := queries(data)
	if !ok || !h.structured {
		return h.refuse(optListMetaContext, repErrInvalid, metaRefusal(h.structured))
	}
	if len(qs) > maxQueries {
		return h.refuse(optListMetaContext, repErrTooBig, "too many queries")
	}
	if len(qs) == 0 {
		qs = []string{""}
	}
	names, err := h.find(name, qs)
	if err != nil {
		return h.refuseFor(optListMetaContext, err)
	}
	if len(names) > maxListed {
		return h.refuse(optListMetaContext, repErrTooBig, "there are too many contexts to list")
	}
	return h.write(contextReplies(optListMetaContext, names, false))
}

func (h *handshake) setContexts(data []byte) error {
	h.contexts, h.contextName = nil, ""
	name, qs, ok := queries(data)
	if !ok || !h.structured {
		return h.refuse(optSetMetaContext, repErrInvalid, metaRefusal(h.structured))
	}
	// Wildcards are for lists only.
	qs = slices.DeleteFunc(qs, func(q string) bool { return strings.HasSuffix(q, ":") })
	if len(qs) > maxQueries {
		return h.refuse(optSetMetaContext, repErrTooBig, "too many queries")
	}
	names, err := h.find(name, qs)
	if err != nil {
		return h.refuseFor(optSetMetaContext, err)
	}
	if len(names) > maxContexts {
		return h.refuse(optSetMetaContext, repErrTooBig, "too many contexts are selected")
	}
	h.contexts, h.contextName = names, name
	return h.write(contextReplies(optSetMetaContext, names, true))
}

func metaRefusal(structured bool) string {
	if !structured {
		return "structured replies must be negotiated first"
	}
	return "the option is malformed"
}

// find asks the backend for the contexts that match, each once. The export must
// exist even if nothing is asked for.
func (h *handshake) find(name string, qs []string) ([]string, error) {
	b := h.c.srv.backend
	if _, err := b.Describe(h.c.ctx, name, h.c); err != nil {
		return nil, err
	}
	var names []string
	have := make(map[string]bool)
	for _, q := range qs {
		found, err := b.Contexts(h.c.ctx, name, q, h.c)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if !have[f] {
				have[f] = true
				names = append(names, f)
			}
		}
		if len(names) > maxListed {
			break
		}
	}
	return names, nil
}

// contextReplies lists contexts and acknowledges, with ids if they are selected.
func contextReplies(opt uint32, names []string, selected bool) []byte {
	var b []byte
	for i, name := range names {
		id := uint32(0)
		if selected {
			id = uint32(i + 1)
		}
		b = appendReply(b, opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), name...))
	}
	return appendReply(b, opt, repAck, nil)
}
