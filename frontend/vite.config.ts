import { defineConfig } from "vite";

// Names without digests, so that a build of the same sources gives the same files: they are kept
// beside the Python code, which serves them, and users need no Node.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/tensorkeep/viewer/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
    rollupOptions: {
      output: {
        entryFileNames: "page.js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
});
