package chart

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The fields of cert-manager.io/v1 that the chart uses, as its reference has them; its
// own module would bring a whole operator with it.

// Issuer of cert-manager.io/v1.
type Issuer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SelfSigned *struct{} `json:"selfSigned"`
		CA         *struct {
			SecretName string `json:"secretName"`
		} `json:"ca"`
	} `json:"spec"`
}

// Certificate of cert-manager.io/v1.
type Certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		IsCA        bool            `json:"isCA"`
		CommonName  string          `json:"commonName"`
		DNSNames    []string        `json:"dnsNames"`
		SecretName  string          `json:"secretName"`
		Duration    metav1.Duration `json:"duration"`
		RenewBefore metav1.Duration `json:"renewBefore"`
		Usages      []string        `json:"usages"`
		PrivateKey  struct {
			Algorithm      string `json:"algorithm"`
			Size           int    `json:"size"`
			RotationPolicy string `json:"rotationPolicy"`
		} `json:"privateKey"`
		IssuerRef struct {
			Name  string `json:"name"`
			Kind  string `json:"kind"`
			Group string `json:"group"`
		} `json:"issuerRef"`
	} `json:"spec"`
}

// DeepCopyObject implements runtime.Object.
func (i *Issuer) DeepCopyObject() runtime.Object {
	c := *i
	return &c
}

// DeepCopyObject implements runtime.Object.
func (c *Certificate) DeepCopyObject() runtime.Object {
	d := *c
	return &d
}

func addCertManager(s *runtime.Scheme) error {
	s.AddKnownTypes(schema.GroupVersion{Group: "cert-manager.io", Version: "v1"}, &Issuer{}, &Certificate{})
	return nil
}
