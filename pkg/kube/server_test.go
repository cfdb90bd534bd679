package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/strata-csi/strata/pkg/store"
)

const testDriver = "csi.test"

// server is an API server, as far as events need one, that can be out of order.
type server struct {
	*testing.T
	*httptest.Server
	over chan struct{} // closed at the end of the test

	mu      sync.Mutex
	mode    string // "" works, "hang" takes requests only, "fail" is not ready
	volumes map[string]*corev1.PersistentVolume
	handles map[string]string // of snapshots, by name of the content
	refuse  Reason
	events  []corev1.Event
	made    chan struct{} // closed and replaced at each event
	calls   map[string]int
	asked   chan struct{} // told of each call, if somebody listens
}

func newServer(t *testing.T, volumes ...*corev1.PersistentVolume) *server {
	s := &server{T: t, over: make(chan struct{}), volumes: map[string]*corev1.PersistentVolume{}, handles: map[string]string{},
		made: make(chan struct{}), calls: map[string]int{}, asked: make(chan struct{})}
	s.add(volumes...)
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.over)
		s.Close()
	})
	return s
}

func (s *server) add(volumes ...*corev1.PersistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range volumes {
		s.volumes[v.Name] = v
	}
}

func (s *server) set(mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = mode
}

func (s *server) cluster() *Cluster {
	s.Helper()
	c, err := ConnectAt(s.URL, "strata/test")
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// count is how often the API was called so.
func (s *server) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[call]
}

// told waits until there are n events.
func (s *server) told(n int) []corev1.Event {
	s.Helper()
	timeout := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		all, made := slices.Clone(s.events), s.made
		s.mu.Unlock()
		if len(all) >= n {
			return all
		}
		select {
		case <-made:
		case <-timeout:
			s.Fatalf("%d events, want %d", len(all), n)
		}
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	mode := s.mode
	s.mu.Unlock()
	select {
	case s.asked <- struct{}{}:
	default:
	}
	if agent := r.Header.Get("User-Agent"); agent != "strata/test" {
		s.Errorf("called by %q", agent)
	}
	w.Header().Set("Content-Type", "application/json")
	switch mode {
	case "hang":
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-s.over:
		case <-r.Context().Done():
		}
	case "fail":
		http.Error(w, "starting", http.StatusServiceUnavailable)
	default:
		s.answer(w, r)
	}
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, name := path.Split(r.URL.Path)
	switch {
	case r.Method == http.MethodPost && name == "events":
		s.event(w, r, path.Base(dir))
		return
	case r.URL.Path == "/api/v1/persistentvolumes":
		if r.URL.Query().Get("continue") == "" {
			s.calls["list"]++
		}
		s.list(w, r)
		return
	case dir == "/api/v1/persistentvolumes/" && s.volumes[name] != nil:
		s.reply(w, http.StatusOK, s.volumes[name])
		return
	case dir == "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/" && s.handles[name] != "":
		fmt.Fprintf(w, `{"kind":"VolumeSnapshotContent","spec":{"driver":%q,"volumeSnapshotRef":{"kind":"VolumeSnapshot","namespace":"ns","name":"backup","uid":"u"}},
			"status":{"snapshotHandle":%q}}`, testDriver, s.handles[name])
		return
	}
	s.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
}

// event takes an event in as the API server does. s.mu is held.
func (s *server) event(w http.ResponseWriter, r *http.Request, namespace string) {
	var e corev1.Event
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		s.Error(err)
	}
	about := cmp.Or(e.InvolvedObject.Namespace, metav1.NamespaceDefault)
	switch {
	case e.Kind != "Event" || e.APIVersion != "v1" || e.Namespace != namespace || about != namespace || len(e.Message) > 1024:
		s.Errorf("invalid event in namespace %s: %+v", namespace, e)
		s.fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		return
	case e.Reason == string(s.refuse):
		s.fail(w, http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	case slices.ContainsFunc(s.events, func(old corev1.Event) bool { return old.Namespace == e.Namespace && old.Name == e.Name }):
		s.fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists)
		return
	}
	s.events = append(s.events, e)
	s.reply(w, http.StatusCreated, e)
	close(s.made)
	s.made = make(chan struct{})
}

// list answers in pages of one. s.mu is held.
func (s *server) list(w http.ResponseWriter, r *http.Request) {
	names := slices.Sorted(maps.Keys(s.volumes))
	if r.URL.Query().Get("limit") != strconv.Itoa(listPage) {
		s.Errorf("list of %s", r.URL)
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	page := corev1.PersistentVolumeList{TypeMeta: metav1.TypeMeta{Kind: "PersistentVolumeList", APIVersion: "v1"}}
	if from < len(names) {
		page.Items = append(page.Items, *s.volumes[names[from]])
	}
	if from+1 < len(names) {
		page.Continue = strconv.Itoa(from + 1)
	}
	s.reply(w, http.StatusOK, page)
}

func (s *server) reply(w http.ResponseWriter, code int, v any) {
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(v); err != nil && !strings.Contains(err.Error(), "write") {
		s.Error(err)
	}
}

func (s *server) fail(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	s.reply(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Code: int32(code),
	})
}

// record starts a recorder that is quick to try again.
func record(t *testing.T, c *Cluster, o Options) *Recorder {
	t.Helper()
	o.Driver = testDriver
	if o.Retry == 0 {
		o.Retry = 5 * time.Millisecond
	}
	r := NewRecorder(c, o)
	t.Cleanup(func() { r.Close() })
	return r
}

// stats waits until the counts are as wanted.
func stats(t *testing.T, r *Recorder, want Stats) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-ticker.C {
		got := r.Stats()
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("counts are %+v, want %+v", got, want)
		}
	}
}

// volume is a PersistentVolume that is bound to a claim.
func volume(name, driver, handle, claim string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{TypeMeta: metav1.TypeMeta{Kind: "PersistentVolume", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
	if claim != "" {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: claim, UID: "uid-of-claim"}
	}
	return pv
}

func handleOf(id store.ID) string { return "v1:default:" + string(id) + ":" + string(store.NewID()) }

func flattened(name string, id store.ID) Notice {
	return Notice{About: Subject{Name: name, UUID: string(id)}, Reason: FlattenDone, Text: "Done.", Key: "1"}
}
