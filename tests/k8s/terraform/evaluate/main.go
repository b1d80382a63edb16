// Evaluates a Terraform folder for one file of variables, without providers: what Terraform itself would evaluate, except
// that attributes which only the cloud knows stand as "${ADDRESS.ATTRIBUTE}". Prints JSON, or checks the formatting.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

func main() {
	folder := flag.String("folder", ".", "Terraform folder")
	variables := flag.String("variables", "", "file of variables")
	computed := flag.String("computed", "", "JSON file: by resource type, the attributes that a provider computes")
	secrets := flag.String("secrets", "", "further variables, as the content of such a file: those that no file has")
	unformatted := flag.Bool("unformatted", false, "list files that are not in canonical format, and nothing else")
	flag.Parse()
	var err error
	if *unformatted {
		err = listUnformatted(*folder)
	} else {
		err = evaluate(*folder, *variables, *secrets, *computed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func listUnformatted(folder string) error {
	var found []string
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || (filepath.Ext(path) != ".tf" && filepath.Ext(path) != ".tfvars") {
			return err
		}
		source, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(source, hclwrite.Format(source)) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(append([]string{}, found...))
}

func evaluate(folder, variables, secrets, computed string) error {
	parser := hclparse.NewParser()
	paths, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil {
		return err
	}
	sort.Strings(paths)
	var blocks []*hclsyntax.Block
	sources := map[string][]byte{}
	for _, path := range paths {
		file, diagnostics := parser.ParseHCLFile(path)
		if diagnostics.HasErrors() {
			return diagnostics
		}
		sources[path] = file.Bytes
		blocks = append(blocks, file.Body.(*hclsyntax.Body).Blocks...)
	}
	values := map[string]hcl.Expression{}
	given, diagnostics := parser.ParseHCLFile(variables)
	if diagnostics.HasErrors() {
		return diagnostics
	}
	secret, diagnostics := parser.ParseHCL([]byte(secrets), "secrets")
	if diagnostics.HasErrors() {
		return diagnostics
	}
	for _, file := range []*hcl.File{given, secret} {
		for name, attribute := range file.Body.(*hclsyntax.Body).Attributes {
			values[name] = attribute.Expr
		}
	}
	known := map[string][]string{}
	text, err := os.ReadFile(computed)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &known); err != nil {
		return err
	}
	module := newModule(folder, sources, known)
	plan, diagnostics := module.plan(blocks, values)
	if diagnostics.HasErrors() {
		return diagnostics
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(plan)
}
