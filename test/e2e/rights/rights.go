// Package rights compares what accounts of a cluster may do with what they have done.
package rights

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Right is to do one thing with one kind of object, or its subresource.
type Right struct {
	Group    string // of the API; "" is the core
	Resource string // "pods", "pods/status"
	Verb     string
}

// Set of rights.
type Set map[Right]bool

// Granted returns the rights that rules give, without those to ask who one is, which
// every account has.
func Granted(rules []rbacv1.PolicyRule) Set {
	s := Set{}
	for _, r := range rules {
		for _, g := range r.APIGroups {
			if g == "authorization.k8s.io" || g == "authentication.k8s.io" {
				continue
			}
			for _, res := range r.Resources {
				for _, v := range r.Verbs {
					s[Right{g, res, v}] = true
				}
			}
		}
	}
	return s
}

// Used is what the account of an audit log has done, and what it was refused.
type Used struct {
	Done, Refused Set
}

type event struct {
	Verb string
	User struct {
		Username string
	}
	ObjectRef *struct {
		APIGroup, Resource, Subresource string
	}
	ResponseStatus *struct{ Code int }
}

const forbidden = 403

// Read reads an audit log and returns what each account has used, by its user name.
// Requests for anything but objects of an API are left out.
func Read(log io.Reader) (map[string]Used, error) {
	all := map[string]Used{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		if e.ObjectRef == nil || e.ObjectRef.Resource == "" {
			continue
		}
		u, ok := all[e.User.Username]
		if !ok {
			u = Used{Done: Set{}, Refused: Set{}}
			all[e.User.Username] = u
		}
		r := Right{Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Verb: e.Verb}
		if e.ObjectRef.Subresource != "" {
			r.Resource += "/" + e.ObjectRef.Subresource
		}
		if e.ResponseStatus != nil && e.ResponseStatus.Code == forbidden {
			u.Refused[r] = true
		} else {
			u.Done[r] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return all, nil
}

// Wild returns the rights of a set that are to everything of a kind.
func (s Set) Wild() []Right {
	var wild []Right
	for r := range s {
		if r.Group == "*" || r.Verb == "*" || strings.Contains(r.Resource, "*") {
			wild = append(wild, r)
		}
	}
	return wild
}

// Table writes, as Markdown, for each kind of object the verbs that are granted, those
// that were used in bold.
func Table(granted, used Set) string {
	verbs := map[string][]string{}
	for r := range granted {
		kind := r.Resource
		if r.Group != "" {
			kind += "." + r.Group
		}
		verb := r.Verb
		if used[r] {
			verb = "**" + verb + "**"
		}
		verbs[kind] = append(verbs[kind], verb)
	}
	var b strings.Builder
	b.WriteString("| objects | verbs, used ones in bold |\n|---|---|\n")
	for _, kind := range slices.Sorted(maps.Keys(verbs)) {
		slices.SortFunc(verbs[kind], func(a, b string) int {
			return strings.Compare(strings.Trim(a, "*"), strings.Trim(b, "*"))
		})
		fmt.Fprintf(&b, "| %s | %s |\n", kind, strings.Join(verbs[kind], ", "))
	}
	return b.String()
}
