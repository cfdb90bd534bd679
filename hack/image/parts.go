package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

// sbomPath is where the image says what it is made of, as SPDX 2.3.
const sbomPath = "/usr/share/strata/sbom.spdx.json"

// strataLayer is the layer of the binary, its licence and the list of parts.
func strataLayer(o options, packs []pack) (tree, error) {
	bin, err := os.ReadFile(o.strata)
	if err != nil {
		return nil, fmt.Errorf("binary of strata: %w; build it with: make build", err)
	}
	if err := static(bin, o.arch); err != nil {
		return nil, fmt.Errorf("%s: %w", o.strata, err)
	}
	info, err := buildinfo.Read(bytes.NewReader(bin))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.strata, err)
	}
	licence, err := os.ReadFile(o.licence)
	if err != nil {
		return nil, fmt.Errorf("licence: %w", err)
	}
	list, err := sbom(o, packs, info, bin)
	if err != nil {
		return nil, err
	}
	t := tree{}
	t.put("/usr/bin/strata", 0o755, bin)
	t.put("/usr/share/doc/strata/LICENSE", 0o644, licence)
	t.put(sbomPath, 0o644, list)
	t.parents()
	return t, nil
}

// static refuses a binary that needs libraries, which may not be in the image, or that is
// for another machine.
func static(bin []byte, arch string) error {
	e, err := elf.NewFile(bytes.NewReader(bin))
	if err != nil {
		return err
	}
	if e.Machine != machines[arch] {
		return fmt.Errorf("is for %v, and the image for %s", e.Machine, arch)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("is not static; build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// spdx is as much of an SPDX document as says what is in the image.
type spdx struct {
	Version   string         `json:"spdxVersion"`
	Licence   string         `json:"dataLicense"`
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Namespace string         `json:"documentNamespace"`
	Creation  spdxCreation   `json:"creationInfo"`
	Packages  []spdxPackage  `json:"packages"`
	Relations []spdxRelation `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID       string    `json:"SPDXID"`
	Name     string    `json:"name"`
	Version  string    `json:"versionInfo"`
	Download string    `json:"downloadLocation"`
	Analysed bool      `json:"filesAnalyzed"`
	Refs     []spdxRef `json:"externalRefs,omitempty"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// sbom lists the Debian packages and the Go modules.
func sbom(o options, packs []pack, info *debug.BuildInfo, bin []byte) ([]byte, error) {
	sum := sha256.Sum256(bin)
	doc := spdx{
		Version: "SPDX-2.3", Licence: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "strata",
		Namespace: "https://" + info.Main.Path + "/sbom/" + hex.EncodeToString(sum[:]),
		Creation:  spdxCreation{Created: o.created.Format(time.RFC3339), Creators: []string{"Tool: strata-hack-image"}},
	}
	add := func(name, version, locator string) {
		id := fmt.Sprintf("SPDXRef-Package-%d", len(doc.Packages))
		doc.Packages = append(doc.Packages, spdxPackage{
			ID: id, Name: name, Version: version, Download: "NOASSERTION",
			Refs: []spdxRef{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}},
		})
		doc.Relations = append(doc.Relations, spdxRelation{Element: doc.ID, Type: "DESCRIBES", Related: id})
	}
	add("strata", o.version, "pkg:golang/"+info.Main.Path+"@"+o.version)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		add(m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version)
	}
	add("stdlib", info.GoVersion, "pkg:golang/stdlib@"+info.GoVersion)
	for _, p := range packs {
		add(p.name, p.version, "pkg:deb/debian/"+p.name+"@"+p.version+"?arch="+p.arch)
	}
	out, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("list of parts: %w", err)
	}
	return append(out, '\n'), nil
}
