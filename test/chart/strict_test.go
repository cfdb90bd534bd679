package chart

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
)

func decoder(t *testing.T) *Decoder {
	t.Helper()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEveryObjectDecodesStrictly(t *testing.T) {
	d := decoder(t)
	for name, r := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			objects, _ := rendered(t, r)
			seen := make(map[string]bool)
			for _, o := range objects {
				object, meta, err := d.Decode(o.Text)
				if err != nil {
					t.Errorf("%s: %v\n%s", o.File, err, o.Text)
					continue
				}
				kind := object.GetObjectKind().GroupVersionKind().Kind
				key := kind + " " + meta.GetNamespace() + "/" + meta.GetName()
				if seen[key] {
					t.Errorf("%s is rendered twice", key)
				}
				seen[key] = true
				if bad := validation.NameIsDNSSubdomain(meta.GetName(), false); len(bad) > 0 && !strings.HasPrefix(kind, "ClusterRole") {
					t.Errorf("%s: %v", key, bad)
				}
				for k, v := range meta.GetLabels() {
					if _, err := labels.ValidatedSelectorFromSet(labels.Set{k: v}); err != nil {
						t.Errorf("%s: %v", key, err)
					}
				}
				if !strings.HasSuffix(o.File, "extra.yaml") && meta.GetLabels()["app.kubernetes.io/part-of"] != "strata" {
					t.Errorf("%s lacks the labels of the chart", key)
				}
			}
		})
	}
}

func TestDecoderIsStrict(t *testing.T) {
	d := decoder(t)
	for text, want := range map[string]string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: 1}\n":                   "unknown field",
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: A, type: B}\n":          "already set",
		"apiVersion: v1\nkind: Servise\nmetadata: {name: x}\n":                                    "no kind",
		"apiVersion: cert-manager.io/v1\nkind: Issuer\nmetadata: {name: x}\nspec: {ca: {s: 1}}\n": "unknown field",
	} {
		if _, _, err := d.Decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
