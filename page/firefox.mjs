// Map an image in Firefox through WebDriver BiDi: node firefox.mjs FIREFOX PAGE IMAGE GSD. Prints what happened as JSON.

import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [executablePath, page, image, gsd] = process.argv.slice(2);
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
try {
  const tab = await browser.newPage();
  tab.setDefaultTimeout(120_000);
  const requests = [];
  const errors = [];
  tab.on("request", (request) => requests.push(request.url()));
  tab.on("pageerror", (error) => errors.push(error.message));
  await tab.goto(pathToFileURL(page).href);
  await tab.waitForSelector("body[data-ready=true]");
  await (await tab.$("#files")).uploadFile(image);
  await tab.waitForSelector("#setup:not([hidden])");
  await tab.type("#gsd", gsd);
  await tab.click("#go");
  await tab.waitForSelector("#result:not([hidden])");
  const rows = await tab.$$eval("#legend tbody tr", (found) => found.map((row) => row.innerText.trim().split(/\s+/)));
  console.log(JSON.stringify({ version: await browser.version(), requests, errors, rows }));
} finally {
  await browser.close();
}
